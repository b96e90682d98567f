"""Regularizer: the penalties bound to a network's parameters, applied before and after each optimizer step."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from regularization.errors import UserError, did_you_mean
from regularization.optim.penalties import L2SP, Penalty, Selection
from regularization.optim.weight_decay import momentum_gain, parameter_kind

Named = dict[str, nn.Parameter]


class Regularizer:
    """What acts on which parameters.

    Penalties' gradients are added after gradient clipping, so the loss's own gradient can be measured and clipped on
    its own, and ``L2`` stays equal to ``weight_decay``. Proximal steps follow each real optimizer step.

    Args:
        network: The network whose parameters are penalized.
        penalties: By name; None switches one off that a config before had switched on.

    Raises:
        UserError: When a name could not be typed on the command line, or a pattern matches no parameter.
    """

    def __init__(self, network: nn.Module, penalties: Mapping[str, Penalty | None]) -> None:
        for name in penalties:
            if not re.fullmatch(r"\w[\w-]*", name):
                raise UserError(f"model.penalties: the name {name!r} must be made of letters, digits, _ and -")
        self.penalties = {name: penalty for name, penalty in penalties.items() if penalty is not None}
        self.selected = {
            name: select_parameters(network, penalty.parameters, name) for name, penalty in self.penalties.items()
        }

    def start(self) -> None:
        """To be called with the weights that training starts from, or after a restore."""
        for name, penalty in self.penalties.items():
            if isinstance(penalty, L2SP):
                penalty.start(list(self.selected[name].values()))

    def strength(self, name: str, time: float, lr_ratio: float) -> float:
        """λ of the penalty ``name`` at ``time``, 0 to 1, with the learning rate at ``lr_ratio`` of its highest."""
        penalty = self.penalties[name]
        return penalty.strength * (penalty.schedule.factor(time, lr_ratio) if penalty.schedule else 1.0)

    @torch.no_grad()
    def add_gradients(self, time: float, lr_ratio: float) -> None:
        """Adds λ·∂R/∂w to the gradients. Parameters without one, such as frozen ones, are left alone."""
        for name, penalty in self.penalties.items():
            strength = self.strength(name, time, lr_ratio)
            if penalty.proximal or not strength:
                continue
            weights = list(self.selected[name].values())
            both = zip(weights, penalty.gradients(_full(weights)), strict=True)
            pairs = [(w.grad, gradient.to(w.grad.dtype)) for w, gradient in both if w.grad is not None]
            if pairs:
                torch._foreach_add_([pair[0] for pair in pairs], [pair[1] for pair in pairs], alpha=strength)

    @torch.no_grad()
    def apply_prox(self, optimizer: Optimizer, time: float, lr_ratio: float) -> None:
        """Applies prox with threshold λ × the step size that the optimizer has for a constant gradient."""
        for name, penalty in self.penalties.items():
            if not penalty.proximal:
                continue
            chosen = {id(w) for w in self.selected[name].values()}
            for group in optimizer.param_groups:
                moving = [w for w in group["params"] if id(w) in chosen and w.grad is not None]
                if moving:
                    threshold = self.strength(name, time, lr_ratio) * step_size(optimizer, group)
                    _in_full_precision(penalty, moving, threshold)

    @torch.no_grad()
    def values(self, time: float, lr_ratio: float) -> dict[str, Tensor]:
        """λ·R of each penalty by name."""
        return {
            name: self.strength(name, time, lr_ratio) * penalty.value(_full(list(self.selected[name].values())))
            for name, penalty in self.penalties.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What the penalties have to remember: where ``L2SP`` started from."""
        kept = {name: penalty.origin for name, penalty in self.penalties.items() if isinstance(penalty, L2SP)}
        return {name: dict(zip(self.selected[name], origin, strict=True)) for name, origin in kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what ``state_dict`` gave."""
        for name, origin in state.items():
            penalty = self.penalties.get(name)
            if isinstance(penalty, L2SP) and list(origin) == list(self.selected[name]):
                penalty.origin = list(origin.values())


def select_parameters(network: nn.Module, selection: Selection, name: str) -> Named:
    """The trainable parameters of ``network`` that ``selection`` means, by name.

    Raises:
        UserError: When that is none; names what there is.
    """
    named = {key: w for key, w in network.named_parameters() if w.requires_grad}
    chosen: Named = {}
    for pattern in [selection] if isinstance(selection, str) else selection:
        found = {key: w for key, w in named.items() if _matches(key, w, pattern, isinstance(selection, str))}
        if not found:
            known = did_you_mean(pattern, named) or f", for instance {', '.join(list(named)[:3])}"
            raise UserError(f"model.penalties.{name}: {pattern!r} matches none of the {len(named)} parameters{known}")
        chosen |= found
    if not chosen:
        raise UserError(f"model.penalties.{name}: parameters is empty")
    return chosen


def step_size(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """η(1−d)/(1−μ) for SGD: how far it moves for a constant gradient, so that prox and gradient balance.

    With η alone, μ = 0.9 would solve the problem for a tenth of λ. For adaptive optimizers, which scale each gradient
    but not the penalty, it is η: the penalty is then decoupled, as AdamW's weight decay is.
    """
    lr = float(group["lr"])
    return lr * momentum_gain(group) if isinstance(optimizer, SGD) else lr


def _matches(key: str, w: Tensor, pattern: str, is_kind: bool) -> bool:
    if not is_kind:
        return fnmatchcase(key, pattern)
    return pattern in ("all", parameter_kind(key, w))


def _full(weights: list[nn.Parameter]) -> list[Tensor]:
    """In float32 at least: a penalty's sums and small λ are lost in 16 bits."""
    return [w.detach() if w.dtype in (torch.float32, torch.float64) else w.detach().float() for w in weights]


def _in_full_precision(penalty: Penalty, weights: list[nn.Parameter], threshold: float) -> None:
    full = _full(weights)
    penalty.prox(full, threshold)
    for w, exact in zip(weights, full, strict=True):
        if w.dtype != exact.dtype:
            w.copy_(exact)
