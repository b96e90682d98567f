"""Training steps of several networks at once in one process, with stacked weights and one kernel for all of them.

The step is that of ``configs/fast_sgd.yaml``: ``WhitenedNet`` of width 32, 256 images of 24×24 for each network,
cross-entropy with label smoothing, and SGD with Nesterov momentum and a different λ for each network. It shows what a
study could gain by training its arms and seeds together instead of in a process each.
"""

import time

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from regularization import WhitenedNet

BATCH, SIZE, WIDTH, CLASSES = 256, 24, 32, 10
# A small learning rate: nothing can be learned from random images, and the loss must not diverge.
STEP, MOMENTUM = 0.75e-3, 0.85


class Stack:
    """``count`` networks that are trained together.

    Args:
        count: Number of networks.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, count: int, device: str) -> None:
        networks = [WhitenedNet(width=WIDTH).to(device) for _ in range(count)]
        self.template = networks[0]
        weights, self.buffers = stack_module_state(networks)
        names = {name for name, w in networks[0].named_parameters() if w.requires_grad}
        self.fixed = {name: w.detach() for name, w in weights.items() if name not in names}
        self.weights = {name: w.detach() for name, w in weights.items() if name in names}
        self.momenta = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        self.decay = torch.linspace(0, 2e-3, count, device=device)
        self._gradients = vmap(grad(self._loss), in_dims=(0, 0, 0, 0, 0), randomness="different")

    def _loss(
        self, weights: dict[str, Tensor], fixed: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> Tensor:
        logits: Tensor = functional_call(self.template, (weights, fixed, buffers), (x,))
        return functional.cross_entropy(logits, y, label_smoothing=0.2)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of SGD on ``images`` ``(count, B, 3, H, W)`` and ``labels`` ``(count, B)``."""
        gradients = self._gradients(self.weights, self.fixed, self.buffers, images, labels)
        for name, w in self.weights.items():
            decayed = gradients[name] + self.decay.view(-1, *[1] * (w.ndim - 1)) * w
            momentum = self.momenta[name].mul_(MOMENTUM).add_(decayed)
            w.sub_(STEP * (decayed + MOMENTUM * momentum))


def images_a_second(count: int, steps: int, warm: int, device: str = "cpu") -> float:
    """Images/s of all networks together, in steps after ``warm`` others, on random images.

    Args:
        count: Number of networks.
        steps: Steps that are timed.
        warm: Steps before them.
        device: ``cpu`` or ``cuda``.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = device == "cuda"
    stack = Stack(count, device)
    images = torch.randn(count, BATCH, 3, SIZE, SIZE, device=device)
    labels = torch.randint(CLASSES, (count, BATCH), device=device)
    start = 0.0
    for number in range(warm + steps):
        if number == warm:
            start = _now(device)
        stack.step(images, labels)
    return count * BATCH * steps / (_now(device) - start)


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
