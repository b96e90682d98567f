"""Schedules of the learning rate and of λ, as pure functions of the training step."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from regularization.errors import UserError
from regularization.optim.hyperparameters import Scheduler

SchedulerMaker = Callable[..., Scheduler]

# The names that schedulers use for the length of the training; these arguments are filled in if they are null or -1.
_LENGTH_ARGUMENTS = ("total_steps", "T_max", "total_iters")


class WarmupDecay(LambdaLR):
    """Multiplies the learning rate by a factor that rises linearly from about 0, then decays to about 0.

    With t = (step + 1)/(``total_steps`` + 1) and w = ``warmup``, the factor is t/w while t < w. After that, with
    u = (t − w)/(1 − w), it is 1 − u (linear) or ½(1 + cos πu) (cosine, Loshchilov and Hutter 2016, arXiv:1608.03983).
    The optimizer's own learning rate is therefore the peak, and the one number to tune. The scheduler steps once per
    optimizer step.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        total_steps: Optimizer steps of the whole training; null takes the number from the trainer.
        warmup: Fraction of the steps that the warm-up takes, from 0 to 1.
        decay: Shape of the decay.

    Raises:
        ValueError: If ``warmup`` is not in 0 to 1 or ``total_steps`` is not positive.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup: float = 0.1,
        decay: Literal["linear", "cosine"] = "cosine",
    ) -> None:
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must be between 0 and 1, not {warmup}")
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {total_steps}")
        self.total_steps = total_steps
        self.warmup = warmup
        self.decay = decay
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """The factor of the learning rate at ``step``, counted from 0."""
        # Shifted by one, so that neither the first nor the last step has a learning rate of 0 and is wasted.
        time = (step + 1) / (self.total_steps + 1)
        if time < self.warmup:
            return time / self.warmup
        remaining = max(0.0, (1 - time) / (1 - self.warmup)) if self.warmup < 1 else 1.0
        return remaining if self.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * remaining)


class SchedulerSequence(SequentialLR):
    """A sequence of schedulers, such as a warm-up and then any other: ``SequentialLR`` with fractional milestones.

    Each scheduler starts from the optimizer's own learning rate and steps once per optimizer step, so that their
    lengths are numbers of optimizer steps. A ``total_steps``, ``T_max`` or ``total_iters`` that is null or -1 becomes
    the number of steps from the scheduler's start to its end.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        schedulers: Functions that make the schedulers from the optimizer, in order.
        milestones: Start of each scheduler except the first, as increasing fractions of the training.
        total_steps: Optimizer steps of the whole training; null takes the number from the trainer.

    Raises:
        ValueError: If a milestone is missing or not a fraction, ``total_steps`` is not positive, or a scheduler
            depends on a metric or sets a learning rate of its own.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[Callable[[Optimizer], Scheduler]],
        milestones: list[float],
        total_steps: int | None = None,
    ) -> None:
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, not {total_steps}")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"{len(schedulers)} schedulers need {max(0, len(schedulers) - 1)} milestones, not {len(milestones)}"
            )
        if not all(0 < milestone < 1 for milestone in milestones) or sorted(set(milestones)) != milestones:
            raise ValueError(f"milestones must be increasing fractions between 0 and 1, not {milestones}")
        steps = [0]
        for milestone in milestones:
            # A scheduler has at least one step, however short the training is.
            steps.append(max(round(milestone * total_steps), steps[-1] + 1))
        lengths = [max(1, end - start) for start, end in zip(steps, [*steps[1:], total_steps], strict=True)]
        made = [_make(maker, optimizer, length) for maker, length in zip(schedulers, lengths, strict=True)]
        # Part of the state, so that a restored run can detect that the config has other schedulers.
        self.names = [type(scheduler).__name__ for scheduler in made]
        self.total_steps = total_steps
        super().__init__(optimizer, made, steps[1:])


def missing_lengths(maker: SchedulerMaker) -> list[str]:
    """The length arguments of a scheduler that the config leaves open, as null or -1."""
    given = maker.keywords if isinstance(maker, partial) else {}
    if given.get("epochs") is not None or given.get("steps_per_epoch") is not None:
        return []  # OneCycleLR takes its length from these two only if total_steps is null.
    # LightningCLI passes a partial of its own function, with the class of the scheduler among the arguments.
    parts = (maker.func, *maker.args) if isinstance(maker, partial) else (maker,)
    defaults = {
        name: None if parameter.default is parameter.empty else parameter.default
        for part in parts
        if callable(part)
        for name, parameter in inspect.signature(part).parameters.items()
    }
    values = {name: given.get(name, defaults[name]) for name in _LENGTH_ARGUMENTS if name in defaults}
    return [name for name, value in values.items() if value in (None, -1)]


def _make(maker: SchedulerMaker, optimizer: Optimizer, length: int) -> LRScheduler:
    """Makes one scheduler of a sequence, which takes ``length`` steps."""
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    scheduler = maker(optimizer, **dict.fromkeys(missing_lengths(maker), length))
    name = type(scheduler).__name__
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(f"{name} depends on a metric, so that it cannot be one of several schedulers")
    if [group["initial_lr"] for group in optimizer.param_groups] != rates:
        # The other schedulers of the sequence would start from that learning rate, too.
        raise ValueError(f"{name} sets a learning rate of its own, so that it cannot be one of several schedulers")
    return scheduler


class StrengthSchedule(ABC):
    """A schedule of λ: at each step, λ is ``strength`` × ``factor``. It has no state, so that it resumes exactly."""

    @abstractmethod
    def factor(self, time: float, lr_ratio: float) -> float:
        """The factor of λ.

        Args:
            time: Steps done so far divided by all steps, from 0 to 1.
            lr_ratio: The current learning rate divided by its peak.
        """


class Linear(StrengthSchedule):
    """The factor changes linearly: start + (end − start)·time.

    Args:
        start: Factor at the start of training, at least 0.
        end: Factor at the end of training, at least 0.
    """

    def __init__(self, start: float = 1.0, end: float = 0.0) -> None:
        self.start, self.end = _checked_factors("Linear", start, end)

    def factor(self, time: float, lr_ratio: float) -> float:
        """start + (end − start)·time."""
        return self.start + (self.end - self.start) * time


class Cosine(StrengthSchedule):
    """The factor follows half a cosine, flat at both ends: end + (start − end)·½·(1 + cos(π·time)).

    Args:
        start: Factor at the start of training, at least 0.
        end: Factor at the end of training, at least 0.
    """

    def __init__(self, start: float = 1.0, end: float = 0.0) -> None:
        self.start, self.end = _checked_factors("Cosine", start, end)

    def factor(self, time: float, lr_ratio: float) -> float:
        """end + (start − end)·½·(1 + cos(π·time))."""
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * time))


class Steps(StrengthSchedule):
    """The factor is piecewise constant: it starts at 1 and is multiplied by ``gamma`` at each time in ``at``.

    Args:
        at: Times as fractions of the training, each from 0 to 1.
        gamma: The factor that λ is multiplied by at each of these times, at least 0.
    """

    def __init__(self, at: Sequence[float] = (0.5, 0.75), gamma: float = 0.1) -> None:
        (self.gamma,) = _checked_factors("Steps", gamma)
        if not all(0 <= milestone <= 1 for milestone in at):
            raise UserError(f"Steps: at must hold times between 0 and 1, not {list(at)}")
        self.at = at

    def factor(self, time: float, lr_ratio: float) -> float:
        """``gamma`` to the power of the number of times passed."""
        return float(self.gamma ** sum(time >= milestone for milestone in self.at))


class LikeLearningRate(StrengthSchedule):
    """λ is proportional to the learning rate: it is highest where the learning rate is highest."""

    def factor(self, time: float, lr_ratio: float) -> float:
        """``lr_ratio`` itself."""
        return lr_ratio


def _checked_factors(name: str, *factors: float) -> tuple[float, ...]:
    for factor in factors:
        if not (math.isfinite(factor) and factor >= 0):
            raise UserError(f"{name}: a factor of λ must be a number of at least 0, not {factor}")
    return factors
