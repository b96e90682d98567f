"""Weight decay: which parameters decay, decoupled SGD, and the conversion between λ and the timescale τ."""

import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from regularization.optim.selection import match_patterns

Decay = Literal["all", "weights"] | list[str]
# The results of is_decoupled, which are measured once per optimizer.
_decoupled: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()


class SGDW(SGD):
    """SGD with decoupled weight decay: w ← (1 − ηλ)·w − η·update, after Loshchilov and Hutter 2019 (arXiv:1711.05101).

    η is the current learning rate. The update, with momentum, is computed from the gradient at the weights before the
    decay, also when the trainer passes a closure. With λ = 0 the results are bit-identical to SGD's. The decoupled λ of
    other libraries differs by constant factors: see docs/lambda.md.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate η.
        momentum: Momentum μ.
        dampening: Dampening d of the momentum: the gradient enters the momentum buffer times 1 − d.
        weight_decay: Weight decay λ.
        nesterov: Whether to use Nesterov's momentum.
        foreach: Whether to update all tensors at once; null chooses by device.
        cautious: Whether to decay only the elements that the step does not push away from 0: those whose update is 0
            or has the sign of w (Chen et al. 2025, arXiv:2510.12402). τ and accumulated_decay remain those of full
            decay. A step needs one more copy of the weights.
    """

    # Also on the class: copying an optimizer, as _measure_decoupled does, drops this attribute of the instance.
    _cautious = False

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
        cautious: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, foreach=foreach)
        self._cautious = cautious

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Performs one step; returns the value of ``closure``, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        strengths = [group["weight_decay"] for group in self.param_groups]
        cautious: list[tuple[list[Tensor], list[Tensor], float]] = []  # the weights, their copies, ηλ
        try:
            for group in self.param_groups:
                weights = [w for w in group["params"] if w.grad is not None]
                product = group["lr"] * group["weight_decay"]
                if product and weights and self._cautious:
                    cautious.append((weights, [w.clone() for w in weights], product))
                elif group["weight_decay"] and weights:
                    torch._foreach_mul_(weights, 1 - product)
                group["weight_decay"] = 0.0
            # SGD's own step, without the wrapper that would call the hooks of the step a second time.
            inspect.unwrap(SGD.step)(self)
        finally:
            for group, strength in zip(self.param_groups, strengths, strict=True):
                group["weight_decay"] = strength
        for weights, before, product in cautious:
            _decay_where_updates_agree(weights, before, product)
        return loss


def _decay_where_updates_agree(weights: list[Tensor], before: list[Tensor], product: float) -> None:
    """w ← w − ηλ·w₀ for the elements where the update w₀ − w is 0 or has the sign of w₀, the weight before it."""
    for w, w0 in zip(weights, before, strict=True):
        w.sub_(w0 * ((w0 - w) * w0 >= 0), alpha=product)


def parameter_groups(network: nn.Module, decay: Decay) -> list[dict[str, Any]]:
    """The trainable parameters as parameter groups for an optimizer.

    Args:
        network: The network to optimize.
        decay: ``all`` makes one group, as in the seed. ``weights`` adds a second group without weight decay, for biases
            and the scales of norm layers, that is for every parameter with fewer than two dimensions. With a list of
            name patterns, all but the selected parameters are in the second group, see ``match_patterns``.

    Returns:
        The groups that are not empty. Only the second one sets ``weight_decay``, to 0.

    Raises:
        UserError: If a pattern matches no parameter.
    """
    trainable = {name: w for name, w in network.named_parameters() if w.requires_grad}
    if decay == "all":
        return [{"params": list(trainable.values())}]
    if decay == "weights":
        selected = {name for name, w in trainable.items() if w.ndim > 1}
    else:
        selected = set(match_patterns(trainable, decay, "--model.decay", empty="the patterns select no parameter"))
    weights = [w for name, w in trainable.items() if name in selected]
    others = [w for name, w in trainable.items() if name not in selected]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def parameter_kind(name: str, w: Tensor) -> str:
    """The kind of a parameter: ``weights``, ``biases`` or ``scales``.

    Parameters with two or more dimensions are ``weights``. Of the others, those whose name ends in ``bias`` are
    ``biases``, and the rest are ``scales``: the γ of norm layers.
    """
    return "weights" if w.ndim > 1 else "biases" if name.endswith("bias") else "scales"


def is_decoupled(optimizer: Optimizer) -> bool:
    """Whether each step multiplies the weights by 1 − ηλ, whatever the gradient: decoupled weight decay.

    This is measured once per optimizer, on separate weights, because libraries have no common name for it. AdamW, SGDW,
    Lion and Muon are decoupled, in timm as well; optimizers that scale λ in another way are not.
    """
    if type(optimizer) is SGD:
        return False
    if optimizer not in _decoupled:
        try:
            _decoupled[optimizer] = _measure_decoupled(optimizer)
        except Exception:  # A third-party optimizer may need more than gradients: no formula is known.
            _decoupled[optimizer] = False
    return _decoupled[optimizer]


def _measure_decoupled(optimizer: Optimizer) -> bool:
    group = optimizer.param_groups[0]
    w = torch.full((2, 3), 0.1, device=group["params"][0].device, requires_grad=True)
    # The gradient of the second row is zero, but the whole gradient is not: LARS and LAMB scale the step by its norm.
    w.grad = torch.zeros_like(w)
    w.grad[0, 0] = 1.0
    probe = copy.copy(optimizer)
    probe.state = defaultdict(dict)
    probe.param_groups = [{**group, "params": [w], "weight_decay": 0.1}]
    # Ten steps, because momentum has an effect from the second one on, and RAdam divides by the size of the gradient
    # from the sixth. Two learning rates, because some optimizers scale λ relative to the highest one.
    decays = []
    for lr in [0.01, 0.005] * 5:
        before = w.detach()[1].clone()
        probe.param_groups[0]["lr"] = lr
        probe.step()
        decays.append((1 - w.detach()[1] / before) / (lr * 0.1))
    # ADOPT only initializes its state in the first step.
    return bool(((torch.stack(decays[1:]) - 1).abs() < 0.01).all())


def decay_per_step(optimizer: Optimizer, group: dict[str, Any], lr: float | None = None) -> float | None:
    """The fraction of a weight that one step removes: ηλ/(1−μ) for coupled, ηλ for decoupled weight decay.

    The approximation is good for ηλ ≪ (1−√μ)². With dampening d, the coupled one is ηλ(1−d)/(1−μ), because the decay
    passes through the momentum.

    Args:
        optimizer: SGD, or one with decoupled weight decay. Adaptive optimizers with coupled decay have no such formula.
        group: One of its parameter groups.
        lr: The learning rate η to use; by default the current one of the group.

    Returns:
        The fraction, or None if there is no formula.
    """
    if not group.get("weight_decay"):
        return 0.0
    product = float(group["lr"] if lr is None else lr) * float(group["weight_decay"])
    if is_decoupled(optimizer):
        return product
    return product * momentum_gain(group) if isinstance(optimizer, SGD) else None


def momentum_gain(group: dict[str, Any]) -> float:
    """(1−d)/(1−μ): how far SGD with momentum μ and dampening d moves for a constant gradient, in units of η."""
    return (1 - group["dampening"]) / (1 - group["momentum"]) if group["momentum"] else 1.0


def strength_for(timescale_steps: float, optimizer: Optimizer, group: dict[str, Any], lr: float) -> float | None:
    """The λ whose timescale is ``timescale_steps`` optimizer steps at learning rate ``lr``; None without a formula."""
    decay_per_strength = decay_per_step(optimizer, {**group, "weight_decay": 1.0}, lr)
    return None if not decay_per_strength else 1 / (timescale_steps * decay_per_strength)
