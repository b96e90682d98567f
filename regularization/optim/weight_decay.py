"""Weight decay: which parameters decay, decoupled SGD, and λ ↔ the timescale τ on which weights are forgotten."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

Decay = Literal["all", "weights"]


class SGDW(SGD):
    """SGD with decoupled weight decay: w ← (1 − ηλ)·w − η·update, after Loshchilov and Hutter 2019 (arXiv:1711.05101).

    η is the current learning rate, and the update (with momentum) is made from the gradient at the undecayed weights,
    also when the trainer passes a closure. With λ = 0 it is SGD to the bit. Other libraries' decoupled λ differ by
    factors: see the README's table.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate η.
        momentum: μ.
        dampening: Of the momentum's gradient.
        weight_decay: λ.
        nesterov: Nesterov's momentum.
        foreach: Whether to handle all tensors at once; null decides by device.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        foreach: bool | None = None,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, foreach=foreach)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what ``closure``, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        strengths = [group["weight_decay"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                moving = [w for w in group["params"] if w.grad is not None]
                if group["weight_decay"] and moving:
                    torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
                group["weight_decay"] = 0.0
            # SGD's own step, without the wrapper that would call the step's hooks a second time.
            inspect.unwrap(SGD.step)(self)
        finally:
            for group, strength in zip(self.param_groups, strengths, strict=True):
                group["weight_decay"] = strength
        return loss


def parameter_groups(network: nn.Module, decay: Decay) -> list[dict[str, Any]]:
    """The trainable parameters as the optimizer wants them.

    ``all`` is one group, as in the seed. ``weights`` makes a second one without weight decay, of biases and the scales
    of norm layers, that is of everything with fewer than two dimensions.
    """
    trainable = [w for w in network.parameters() if w.requires_grad]
    if decay == "all":
        return [{"params": trainable}]
    weights = [w for w in trainable if w.ndim > 1]
    others = [w for w in trainable if w.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def parameter_kind(name: str, w: Tensor) -> str:
    """``weights`` (two or more dimensions), else ``biases`` by the end of the name, else ``scales``: a norm's γ."""
    return "weights" if w.ndim > 1 else "biases" if name.rpartition(".")[2] == "bias" else "scales"


def is_decoupled(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Whether ``weight_decay`` multiplies the weights directly, instead of being added to the gradient."""
    return isinstance(optimizer, SGDW | torch.optim.AdamW) or bool(group.get("decoupled_weight_decay"))


def decay_per_step(optimizer: Optimizer, group: dict[str, Any], lr: float | None = None) -> float | None:
    """ηλ/(1−μ) coupled, ηλ decoupled: the share of a weight that is forgotten in one step; None without a formula.

    Good for ηλ ≪ (1−√μ)². With dampening d the coupled one is ηλ(1−d)/(1−μ), for the decay passes through the momentum.

    Args:
        optimizer: SGD, SGDW, AdamW; adaptive ones with coupled decay have no such formula.
        group: One of its parameter groups.
        lr: The learning rate η to use; by default the group's current one.
    """
    lr = float(group["lr"]) if lr is None else lr
    if is_decoupled(optimizer, group):
        return float(lr * group["weight_decay"])
    if not isinstance(optimizer, SGD):
        return None if group.get("weight_decay") else 0.0
    return float(lr * group["weight_decay"] * momentum_gain(group))


def momentum_gain(group: dict[str, Any]) -> float:
    """(1−d)/(1−μ): how far SGD with momentum μ and dampening d goes for a constant gradient, in learning rates."""
    return (1 - group["dampening"]) / (1 - group["momentum"]) if group["momentum"] else 1.0


def strength_for(timescale_steps: float, optimizer: Optimizer, group: dict[str, Any], lr: float) -> float | None:
    """The λ whose timescale is ``timescale_steps`` optimizer steps at learning rate ``lr``; None without a formula."""
    per_lambda = decay_per_step(optimizer, {**group, "weight_decay": 1.0}, lr)
    return None if not per_lambda else 1 / (timescale_steps * per_lambda)
