"""MuonAdamW: torch's Muon for the matrices and kernels of a network, and AdamW for its other parameters."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer


class MuonAdamW(Optimizer):
    """Muon for parameters with two or more dimensions, AdamW for biases and scales (arXiv:2502.16982).

    Muon moves a matrix by its momentum with all singular values set to about 1: w ← (1 − ηλ)·w − η·0.2·√max(n, m)·UVᵀ
    for the momentum U·S·Vᵀ ``(n, m)``. A kernel is a matrix of filters. The factor makes the step as large as AdamW's:
    one learning rate η and one weight decay λ, which is decoupled, serve both.

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
        for group in self.param_groups:  # Both check their arguments.
            _muon([torch.zeros(1, 1)], group)
            _adamw([torch.zeros(1)], group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step; returns the value of ``closure``, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            trained = [w for w in group["params"] if w.grad is not None]
            matrices = {_as_matrix(w): w for w in trained if w.ndim > 1}
            others = {w: w for w in trained if w.ndim <= 1}
            for make, parameters in ((_muon, matrices), (_adamw, others)):
                if parameters:
                    # Made for one step: a view would become stale if the memory of its weight is replaced.
                    optimizer = make(list(parameters), group)
                    optimizer.state.update({view: self.state[w] for view, w in parameters.items()})
                    optimizer.step()
                    self.state.update({w: optimizer.state[view] for view, w in parameters.items()})
        return loss


def _muon(matrices: list[Tensor], group: dict[str, Any]) -> Optimizer:
    options = {name: group[name] for name in ("lr", "weight_decay", "momentum", "nesterov")}
    return torch.optim.Muon(matrices, **options, adjust_lr_fn="match_rms_adamw")


def _adamw(parameters: list[Tensor], group: dict[str, Any]) -> Optimizer:
    return AdamW(parameters, **{name: group[name] for name in ("lr", "weight_decay", "betas")})


def _as_matrix(w: Tensor) -> Tensor:
    """A view of ``w`` with one row per filter, whatever its memory format, and with the gradient in the same order."""
    order = [0, *sorted(range(1, w.ndim), key=w.stride, reverse=True)]
    matrix = w.detach().permute(order).view(len(w), -1)
    assert w.grad is not None
    matrix.grad = w.grad.permute(order).reshape(len(w), -1)
    return matrix
