"""Which filters are scale-invariant: measured on any network, without looking at the names of its layers.

A filter is scale-invariant if the loss does not change when the filter is multiplied by a positive number, as in front
of a norm layer. Euler's identity then says ⟨w, ∂L/∂w⟩ = 0. Weight decay does not shrink the function of such a filter:
it only sets how fast its direction turns, by the effective learning rate η/((1−μ)·‖w‖²) (van Laarhoven 2017,
arXiv:1706.05350).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from regularization.optim.penalties import filters

PARTS = 4
# |⟨w, g⟩|·√d/(‖w‖·‖g‖) is about 1 for two unrelated vectors of d numbers. In front of a norm layer it is below 0.01 in
# float32: what remains is rounding and the ε of the layer. By chance, it is below the limit in all four parts for one
# filter in 400,000.
LIMIT = 0.05


def scale_invariant(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """For each parameter with two or more dimensions, which of its filters are scale-invariant.

    The gradient is taken on four parts of a batch, in training mode, on a copy: the network, its running statistics
    and the state of the random generators do not change.

    Args:
        network: Maps images to logits.
        images: Preprocessed images, float ``(B, 3, H, W)``, with B at least 8.
        labels: int64 ``(B,)``.

    Returns:
        bool ``(filters,)`` by the name of the parameter; False for a filter that has no gradient.
    """
    network = copy.deepcopy(network).train()
    kernels = {name: w for name, w in network.named_parameters() if w.ndim > 1 and w.requires_grad}
    invariant = {name: torch.ones(len(w), dtype=torch.bool, device=w.device) for name, w in kernels.items()}
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        for part, targets in zip(images.tensor_split(PARTS), labels.tensor_split(PARTS), strict=True):
            loss = functional.cross_entropy(network(part), targets)
            gradients = torch.autograd.grad(loss, list(kernels.values()), allow_unused=True)
            for (name, w), gradient in zip(kernels.items(), gradients, strict=True):
                invariant[name] &= _alignment(w.detach(), gradient) < LIMIT
    return invariant


def _alignment(w: Tensor, gradient: Tensor | None) -> Tensor:
    """|⟨w, g⟩|·√d/(‖w‖·‖g‖) per filter, ``(filters,)``; infinite where w or g is zero or g is missing."""
    if gradient is None:
        return w.new_full((len(w),), torch.inf)
    # On the CPU, because not every device has float64. This runs once per run.
    w64, g64 = filters(w).cpu().double(), filters(gradient).cpu().double()
    norms = w64.norm(dim=1) * g64.norm(dim=1)
    alignment = (w64 * g64).sum(dim=1).abs() * w64.shape[1] ** 0.5 / norms
    return torch.where(norms > 0, alignment, torch.inf).to(w.device)
