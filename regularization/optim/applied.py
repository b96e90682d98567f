"""Regularizer: the penalties bound to the parameters of a network, applied before and after each optimizer step."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from regularization.data.sampling import Batch
from regularization.errors import UserError
from regularization.optim.function_penalties import FunctionPenalty
from regularization.optim.penalties import Penalty, Selection
from regularization.optim.references import ReferencePenalty
from regularization.optim.selection import match_patterns
from regularization.optim.weight_decay import momentum_gain, parameter_kind

NamedParameters = dict[str, nn.Parameter]


class Regularizer:
    """Applies each penalty to the parameters that it selects.

    The gradients of the penalties are added after gradient clipping. So the gradient of the loss can be measured and
    clipped alone, and ``L2`` stays equal to ``weight_decay``. Proximal steps follow each actual optimizer step.

    Args:
        network: The network whose parameters are penalized.
        penalties: The penalties by name; None stands for a penalty that a later config removed.

    Attributes:
        penalties: The penalties by name, without those that are None.
        selected: The parameters of each penalty, by the name of the penalty and of the parameter.
        functions: The penalties that are part of the loss.
        input_gradients: Whether one of ``functions`` differentiates with respect to the images.

    Raises:
        UserError: If a name could not be typed on the command line, or a pattern matches no parameter.
    """

    def __init__(self, network: nn.Module, penalties: Mapping[str, Penalty | None]) -> None:
        for name in penalties:
            if not re.fullmatch(r"\w[\w-]*", name):
                raise UserError(f"model.penalties: the name {name!r} must be made of letters, digits, _ and -")
        self.penalties = {name: penalty for name, penalty in penalties.items() if penalty is not None}
        self.selected = {
            name: select_parameters(network, penalty.parameters, name) for name, penalty in self.penalties.items()
        }
        self.functions = {name: it for name, it in self.penalties.items() if isinstance(it, FunctionPenalty)}
        self._with_reference = {name: it for name, it in self.penalties.items() if isinstance(it, ReferencePenalty)}
        self.input_gradients = any(penalty.input_gradients for penalty in self.functions.values())

    def start(self) -> None:
        """Sets the reference weights; call it when the network has its initial weights or those of a checkpoint."""
        for name, penalty in self._with_reference.items():
            penalty.start(_full_precision(self._weights(name)))

    def strength(self, name: str, time: float, lr_ratio: float) -> float:
        """The current λ of the penalty ``name``.

        Args:
            name: Name of the penalty.
            time: Fraction of the training that is done, from 0 to 1.
            lr_ratio: The current learning rate divided by its peak.
        """
        penalty = self.penalties[name]
        return penalty.strength * (penalty.schedule.factor(time, lr_ratio) if penalty.schedule else 1.0)

    def losses(
        self, batch: Batch, logits: Tensor, network: nn.Module, progress: tuple[float, float]
    ) -> dict[str, Tensor]:
        """λ·R of each penalty in ``functions`` for a batch, to be added to its loss; 0 if λ is 0.

        Args:
            batch: The input images of the network, and their labels, see ``FunctionPenalty.loss``.
            logits: The network's output for them, ``(B, num_classes)``.
            network: The network.
            progress: ``(time, lr_ratio)``, see ``strength``.
        """
        strengths = {name: self.strength(name, *progress) for name in self.functions}
        zero = torch.zeros((), device=logits.device)
        return {
            name: strengths[name] * penalty.loss(batch, logits, network) if strengths[name] else zero
            for name, penalty in self.functions.items()
        }

    @torch.no_grad()
    def add_gradients(self, time: float, lr_ratio: float) -> None:
        """Adds λ·∂R/∂w to the gradients; parameters without a gradient, such as frozen ones, are skipped."""
        for name, penalty in self.penalties.items():
            strength = self.strength(name, time, lr_ratio)
            if penalty.proximal or name in self.functions or not strength:
                continue
            weights = self._weights(name)
            penalty_gradients = penalty.gradients(_full_precision(weights))
            pairs = [
                (w.grad, gradient.to(w.grad.dtype))
                for w, gradient in zip(weights, penalty_gradients, strict=True)
                if w.grad is not None
            ]
            if pairs:
                gradients, additions = zip(*pairs, strict=True)
                torch._foreach_add_(gradients, additions, alpha=strength)

    @torch.no_grad()
    def apply_prox(self, optimizer: Optimizer, time: float, lr_ratio: float) -> None:
        """Applies the proximal steps, with the threshold λ × ``step_size`` of each parameter group."""
        for name, penalty in self.penalties.items():
            if not penalty.proximal:
                continue
            selected = {id(w) for w in self._weights(name)}
            for group in optimizer.param_groups:
                weights = [w for w in group["params"] if id(w) in selected and w.grad is not None]
                if weights:
                    threshold = self.strength(name, time, lr_ratio) * step_size(optimizer, group)
                    _prox_in_full_precision(penalty, weights, threshold)

    @torch.no_grad()
    def update_references(self) -> None:
        """Updates the reference weights of penalties; to be called after each step, and after proximal steps."""
        for name, penalty in self._with_reference.items():
            penalty.update(_full_precision(self._weights(name)))

    @torch.no_grad()
    def values(self, time: float, lr_ratio: float) -> dict[str, Tensor]:
        """λ·R of each penalty on weights, by its name."""
        return {
            name: self.strength(name, time, lr_ratio) * penalty.value(_full_precision(self._weights(name)))
            for name, penalty in self.penalties.items()
            if name not in self.functions
        }

    def state_dict(self) -> dict[str, Any]:
        """The state of the penalties: their reference weights, by the name of the penalty and of the parameter."""
        return {
            name: dict(zip(self.selected[name], penalty.reference, strict=True))
            for name, penalty in self._with_reference.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned, for penalties that still select the same parameters."""
        for name, reference in state.items():
            if name in self._with_reference and list(reference) == list(self.selected[name]):
                self._with_reference[name].reference = list(reference.values())

    def _weights(self, name: str) -> list[Tensor]:
        return list(self.selected[name].values())


def select_parameters(network: nn.Module, selection: Selection, penalty_name: str) -> NamedParameters:
    """The trainable parameters of ``network`` that match ``selection``, by name.

    Args:
        network: The network.
        selection: A kind of parameters, or patterns of names, see ``Penalty``.
        penalty_name: Name of the penalty, for the error message.

    Raises:
        UserError: If a pattern or kind matches no parameter; the message suggests names that exist.
    """
    trainable = {name: w for name, w in network.named_parameters() if w.requires_grad}
    option = f"model.penalties.{penalty_name}"
    if not isinstance(selection, str):
        return match_patterns(trainable, selection, option, empty="parameters is empty")
    selected = {name: w for name, w in trainable.items() if selection in ("all", parameter_kind(name, w))}
    if not selected:
        examples = ", ".join(list(trainable)[:3])
        raise UserError(
            f"{option}: {selection!r} matches none of the {len(trainable)} parameters, for instance {examples}"
        )
    return selected


def step_size(optimizer: Optimizer, group: dict[str, Any]) -> float:
    """η(1−d)/(1−μ) for SGD: how far it moves for a constant gradient, so that prox and gradient balance.

    With η alone and μ = 0.9, the solution would be that of a tenth of λ. Adaptive optimizers scale each gradient but
    not the penalty: for them, the step size is η and the penalty is decoupled, as the weight decay of AdamW is.
    """
    lr = float(group["lr"])
    return lr * momentum_gain(group) if isinstance(optimizer, SGD) else lr


def _full_precision(weights: list[Tensor]) -> list[Tensor]:
    """The weights in float32 or better: in 16 bits, the sums of a penalty and a small λ would be lost to rounding."""
    return [w.detach() if w.dtype in (torch.float32, torch.float64) else w.detach().float() for w in weights]


def _prox_in_full_precision(penalty: Penalty, weights: list[Tensor], threshold: float) -> None:
    precise_weights = _full_precision(weights)
    penalty.prox(precise_weights, threshold)
    for w, precise in zip(weights, precise_weights, strict=True):
        if w.dtype != precise.dtype:
            w.copy_(precise)
