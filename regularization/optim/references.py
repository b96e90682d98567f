"""Penalties that pull the weights towards reference weights instead of zero."""

from abc import abstractmethod

import torch
from torch import Tensor

from regularization.errors import UserError
from regularization.optim.penalties import Penalty, Selection, Weights
from regularization.optim.schedules import StrengthSchedule


class ReferencePenalty(Penalty):
    """R = ½·Σ(w − w₀)², with the gradient w − w₀, for reference weights w₀ that checkpoints contain.

    Attributes:
        reference: w₀, one tensor per parameter, in float32 or better; empty before ``start``.
    """

    reference: list[Tensor] | tuple[Tensor, ...] = ()

    def start(self, weights: Weights) -> None:
        """Copies ``weights`` as w₀, unless a checkpoint has restored w₀. To be called before the first step."""
        if not self.reference:
            self.reference = [w.detach().clone() for w in weights]
        self.reference = [w0.to(w) for w0, w in zip(self.reference, weights, strict=True)]

    @abstractmethod
    def update(self, weights: Weights) -> None:
        """Updates w₀ after an optimizer step, with the new ``weights``."""

    def value(self, weights: Weights) -> Tensor:
        """½·Σ(w − w₀)²."""
        norms = torch._foreach_norm(self.gradients(weights))
        return 0.5 * torch.stack([norm.square() for norm in norms]).sum()

    def gradients(self, weights: Weights) -> list[Tensor]:
        """w − w₀."""
        return list(torch._foreach_sub(weights, self.reference))


class L2SP(ReferencePenalty):
    """R = ½·Σ(w − w₀)², where w₀ are the weights at the start of training. Li et al. 2018 (arXiv:1802.01483).

    For fine-tuning: it pulls the weights towards the pretrained ones instead of zero. Checkpoints contain w₀.
    """

    def update(self, weights: Weights) -> None:
        """Does nothing, because w₀ is constant."""


class L2EMA(ReferencePenalty):
    """R = ½·Σ(w − w̄)², where w̄ is the exponential moving average of the weights, a constant in the gradient w − w̄.

    After each step of the optimizer, w̄ becomes d·w̄ + (1 − d)·w, with d = ``decay``; it begins as the weights at the
    start of training. This is the elastic force of EASGD (Zhang, Choromanska and LeCun 2015, arXiv:1412.6651) for a
    single worker. The paper uses it to keep several workers together, and does not discuss a single one. A steady drift
    of the weights by SGD becomes slower by the factor 1 + ηλ·d/((1 − μ)(1 − d)), as with a smaller learning rate.
    Checkpoints contain w̄.

    Args:
        strength: λ, at least 0.
        decay: d, above 0 and below 1; the average is over about 1/(1 − d) steps.
        parameters: Parameters to penalize, see ``Penalty``.
        schedule: Schedule of λ, see ``Penalty``.

    Raises:
        UserError: If d is not between 0 and 1.
    """

    def __init__(
        self,
        strength: float,
        decay: float = 0.99,
        parameters: Selection = "weights",
        schedule: StrengthSchedule | None = None,
    ) -> None:
        super().__init__(strength, parameters, schedule)
        if not 0 < decay < 1:
            raise UserError(f"L2EMA: decay must be above 0 and below 1, not {decay}")
        self.decay = decay

    def update(self, weights: Weights) -> None:
        """w̄ ← d·w̄ + (1 − d)·w."""
        torch._foreach_lerp_(list(self.reference), weights, 1 - self.decay)
