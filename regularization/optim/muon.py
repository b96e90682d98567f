"""MuonAdamW: Muon for the matrices and kernels of a network, and AdamW for its other parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

# Coefficients of the quintic iteration by Jordan et al. 2024 (kellerjordan.github.io/posts/muon), as in torch's Muon.
A, B, C = 3.4445, -4.775, 2.0315
ITERATIONS = 5


class MuonAdamW(Optimizer):
    """Muon for parameters with two or more dimensions, AdamW for biases and scales (arXiv:2502.16982).

    Muon moves a matrix by its momentum with all singular values set to about 1: w ← (1 − ηλ)·w − η·0.2·√max(n, m)·UVᵀ
    for the momentum U·S·Vᵀ ``(n, m)``. A kernel is treated as a matrix with one row per filter. The factor makes the
    step as large as AdamW's, so that one learning rate η and one weight decay λ, which is decoupled, serve both.

    Its steps on matrices are those of ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``. torch
    orthogonalizes in bfloat16; this class does so in float32 on the CPU, because a CPU without bfloat16 instructions
    takes about 20 times as long in bfloat16.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate η.
        weight_decay: Weight decay λ; τ is 1/(ηλ) steps.
        momentum: Momentum of Muon.
        nesterov: Whether to use Nesterov's momentum in Muon.
        betas: Averaging coefficients of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov, "betas": betas}
        super().__init__(params, options)
        for group in self.param_groups:
            if not 0 <= group["momentum"] < 1:
                raise ValueError(f"momentum must be at least 0 and below 1, not {group['momentum']}")
            if any(torch.is_complex(w) for w in group["params"]):
                raise ValueError("complex parameters are not supported")
            _adamw([torch.zeros(1)], group)  # checks the other arguments

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step; returns the value of ``closure``, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [w for w in group["params"] if w.grad is not None]
            for w in trained:
                if w.ndim > 1:
                    _muon_step(w, self.state[w], group)
            others = [w for w in trained if w.ndim <= 1]
            if others:
                optimizer = _adamw(others, group)
                optimizer.state.update({w: self.state[w] for w in others})
                optimizer.step()
                self.state.update({w: optimizer.state[w] for w in others})
        return loss


def _adamw(parameters: list[Tensor], group: dict[str, Any]) -> Optimizer:
    return AdamW(parameters, **{name: group[name] for name in ("lr", "weight_decay", "betas")})


def _muon_step(w: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One step of Muon on ``w``, whose momentum is kept in ``state``."""
    assert w.grad is not None
    # One row per filter. The columns are in the order of the memory, so that this is a view of ``w``.
    order = [0, *sorted(range(1, w.ndim), key=w.stride, reverse=True)]
    matrix = w.permute(order).view(len(w), -1)
    gradient = w.grad.permute(order).reshape(len(w), -1)
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
    direction = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
    lr = float(group["lr"])
    matrix.mul_(1 - lr * group["weight_decay"])
    matrix.add_(orthogonalized(direction), alpha=-0.2 * lr * max(matrix.shape) ** 0.5)


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U·Vᵀ for a matrix U·S·Vᵀ ``(n, m)``: five Newton–Schulz iterations bring most of S to between 0.7 and 1.2.

    It is computed in float32 on the CPU, and elsewhere in bfloat16, because GPUs are faster in bfloat16.
    """
    x = matrix.to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    x = x.T if len(x) > x.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x if x.shape == matrix.shape else x.T).to(matrix.dtype)
