"""Schedules: of the learning rate, and of λ over the training, as pure functions of the step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from regularization.errors import UserError


class WarmupDecay(LambdaLR):
    """Learning rate × factor: a linear rise from 0 over the warm-up, then a decay to 0 at the end of training.

    With t = step / ``total_steps`` and w = ``warmup``, the factor is t/w while t < w, then with u = (t − w)/(1 − w)
    1 − u (linear) or ½(1 + cos πu) (cosine, Loshchilov and Hutter 2016, arXiv:1608.03983). It multiplies the
    optimizer's own learning rate, which so stays the one number to change. Steps once per optimizer step.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        total_steps: Optimizer steps of the whole training; null takes them from the trainer.
        warmup: Share of the steps that the warm-up takes, 0 to 1.
        decay: Shape of the decay.

    Raises:
        ValueError: When ``warmup`` is not in 0 … 1 or ``total_steps`` not positive.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup: float = 0.1,
        decay: Literal["linear", "cosine"] = "cosine",
    ) -> None:
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must lie in 0 to 1, not {warmup}")
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {total_steps}")
        self.total_steps = total_steps
        self.warmup = warmup
        self.decay = decay
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied with at ``step``, counted from 0."""
        # The first step is already one above zero, the last one still above it: no step is wasted.
        time = (step + 1) / (self.total_steps + 1)
        if time < self.warmup:
            return time / self.warmup
        rest = max(0.0, (1 - time) / (1 - self.warmup)) if self.warmup < 1 else 1.0
        return rest if self.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * rest)


class StrengthSchedule(ABC):
    """λ's course over the training: λ at a step is ``strength`` × ``factor``. Without state, so it resumes exactly."""

    @abstractmethod
    def factor(self, time: float, lr_ratio: float) -> float:
        """What λ is multiplied with.

        Args:
            time: Steps done so far over all steps, 0 to 1.
            lr_ratio: The learning rate now over its highest.
        """


class Linear(StrengthSchedule):
    """start + (end − start)·time.

    Args:
        start: Factor at the start, at least 0.
        end: Factor at the end, at least 0.
    """

    def __init__(self, start: float = 1.0, end: float = 0.0) -> None:
        self.start, self.end = _not_negative("Linear", start, end)

    def factor(self, time: float, lr_ratio: float) -> float:
        """The point of the line."""
        return self.start + (self.end - self.start) * time


class Cosine(StrengthSchedule):
    """end + (start − end)·½·(1 + cos(π·time)): level at both ends.

    Args:
        start: Factor at the start, at least 0.
        end: Factor at the end, at least 0.
    """

    def __init__(self, start: float = 1.0, end: float = 0.0) -> None:
        self.start, self.end = _not_negative("Cosine", start, end)

    def factor(self, time: float, lr_ratio: float) -> float:
        """The point of the curve."""
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * time))


class Steps(StrengthSchedule):
    """Constant pieces: multiplied with ``gamma`` at each of the times.

    Args:
        at: Times, each 0 to 1.
        gamma: Factor of each step, at least 0.
    """

    def __init__(self, at: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> None:
        (self.gamma,) = _not_negative("Steps", gamma)
        if not all(0 <= moment <= 1 for moment in at):
            raise UserError(f"Steps: at must hold times in 0 to 1, not {list(at)}")
        self.at = at

    def factor(self, time: float, lr_ratio: float) -> float:
        """gamma to the number of times passed."""
        return float(self.gamma ** sum(time >= moment for moment in self.at))


class LikeLearningRate(StrengthSchedule):
    """λ in proportion to the learning rate: the highest λ where the learning rate is highest."""

    def factor(self, time: float, lr_ratio: float) -> float:
        """The learning rate's share of its highest."""
        return lr_ratio


def _not_negative(name: str, *factors: float) -> tuple[float, ...]:
    for factor in factors:
        if not (math.isfinite(factor) and factor >= 0):
            raise UserError(f"{name}: a factor of λ must be a number of at least 0, not {factor}")
    return factors
