"""OptimizerFactory: what the config asks of optimizer, schedule and weight decay, built for a run of a given length."""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from regularization.errors import UserError
from regularization.optim import hyperparameters, weight_decay
from regularization.optim.schedules import StrengthSchedule
from regularization.optim.weight_decay import Decay

# Arguments by which schedulers ask for the length of the training; they are filled in when null or -1.
_LENGTHS = ("total_steps", "T_max")

Make = Callable[..., Any]


class OptimizerFactory:
    """Builds optimizer and scheduler, sets λ from a timescale, and follows λ's schedule.

    Args:
        network: Whose parameters are optimized.
        optimizer: Makes the optimizer from parameter groups.
        lr_scheduler: Makes the scheduler from the optimizer, or None.
        decay: What weight decay acts on.
        decay_schedule: λ's course, or None.
        timescale_epochs: τ, which sets λ, or None.

    Attributes:
        steps: Optimizer steps of the whole run, infinite when it has no end.
        steps_per_epoch: Optimizer steps of an epoch.
        peak_lr: The highest learning rate of the schedule.
        asked: The settings of the newest fresh optimizer and scheduler.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Make,
        lr_scheduler: Make | None,
        decay: Decay,
        decay_schedule: StrengthSchedule | None,
        timescale_epochs: float | None,
    ) -> None:
        if timescale_epochs is not None and not timescale_epochs > 0:
            raise UserError(f"--model.timescale_epochs must be above 0, not {timescale_epochs}")
        self._network = network
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._decay = decay
        self._decay_schedule = decay_schedule
        self._timescale_epochs = timescale_epochs
        self.steps, self.steps_per_epoch = 1000.0, 1000
        self.peak_lr = self._mean_lr = 1.0
        # So that a value that can't be is refused at once, not after minutes of preparation: any length will do.
        self.hyperparameters = hyperparameters.hyperparameters(*self.build())

    def prepare(self, steps: float, steps_per_epoch: int) -> None:
        """Learns the run's length, and how the learning rate will go.

        Args:
            steps: Optimizer steps of the run, or infinity.
            steps_per_epoch: Optimizer steps of one epoch.

        Raises:
            UserError: When the scheduler needs an end that the run does not have, or ends before it.
        """
        if steps == float("inf") and (self._lr_scheduler is not None or self._decay_schedule is not None):
            raise UserError("the schedule needs to know the end: give --trainer.max_epochs or --trainer.max_steps")
        self.steps = steps
        self.steps_per_epoch = max(1, steps_per_epoch)
        rates = self._rates()
        self.peak_lr = max(rates) or 1.0  # 0: nothing moves, and any other number will do as the highest
        factors = [self._factor(place / len(rates), rate / self.peak_lr) for place, rate in enumerate(rates)]
        self._mean_lr = sum(rate * factor for rate, factor in zip(rates, factors, strict=True)) / len(rates)
        self.hyperparameters = hyperparameters.hyperparameters(*self.build())

    def build(self) -> tuple[Optimizer, hyperparameters.Scheduler | None]:
        """A fresh optimizer and scheduler.

        Raises:
            UserError: When they refuse their values, a negative λ for instance.
        """
        try:
            optimizer = self._optimizer(weight_decay.parameter_groups(self._network, self._decay))
            self._set_timescale(optimizer)
            if self._lr_scheduler is None:
                return optimizer, None
            lengths = dict.fromkeys(_open_lengths(self._lr_scheduler), max(1, int(self.steps)))
            return optimizer, self._lr_scheduler(optimizer, **lengths)
        except (ValueError, TypeError) as error:
            raise UserError(f"the optimizer or its scheduler can't be made: {error}") from error

    def interval(self, scheduler: hyperparameters.Scheduler) -> str:
        """``step`` for a scheduler that counts steps, else ``epoch``."""
        counts_steps = isinstance(scheduler, OneCycleLR | CyclicLR) or hasattr(scheduler, "total_steps")
        assert self._lr_scheduler is not None
        return "step" if counts_steps or _open_lengths(self._lr_scheduler) else "epoch"

    def progress(self, step: int, optimizer: Optimizer) -> tuple[float, float]:
        """(time, learning rate's share of its highest): what λ's schedules depend on."""
        return min(1.0, step / self.steps), float(optimizer.param_groups[0]["lr"]) / self.peak_lr

    def apply_decay_schedule(self, optimizer: Optimizer, progress: tuple[float, float]) -> None:
        """Sets each group's λ to what its schedule says."""
        for place, group in enumerate(optimizer.param_groups):
            # Without a schedule too: a restored group may hold the λ of one that was taken away.
            if "weight_decay" in group:
                group["weight_decay"] = self.base_weight_decay(place) * self._factor(*progress)

    def base_weight_decay(self, place: int) -> float:
        """The config's λ for the optimizer's parameter group ``place``, before its schedule."""
        return float(self.hyperparameters["groups"][place].get("weight_decay", 0.0))

    def tau(self, optimizer: Optimizer, place: int) -> float | None:
        """τ in epochs at the highest learning rate; infinite without decay, None without a formula."""
        share = self._share(optimizer, place, self.peak_lr)
        return None if share is None else 1 / (share * self.steps_per_epoch) if share else float("inf")

    def planned_decay(self, optimizer: Optimizer) -> float | None:
        """Σηλ/(1−μ) over the whole run, schedules included: its length over τ. None without a formula or an end."""
        share = self._share(optimizer, 0, self._mean_lr)
        return None if share is None or self.steps == float("inf") else share * self.steps

    def _factor(self, time: float, lr_ratio: float) -> float:
        return 1.0 if self._decay_schedule is None else self._decay_schedule.factor(time, lr_ratio)

    def _rates(self) -> list[float]:
        optimizer, scheduler = self.build()
        if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
            return [float(optimizer.param_groups[0]["lr"])]
        try:
            length = self.steps if self.interval(scheduler) == "step" else math.ceil(self.steps / self.steps_per_epoch)
            return hyperparameters.replay_schedule(scheduler, int(length) - 1)
        except ValueError as error:
            raise UserError(f"the scheduler ends before the training does: {error}") from error

    def _share(self, optimizer: Optimizer, place: int, lr: float) -> float | None:
        group = optimizer.param_groups[place] | {"weight_decay": self.base_weight_decay(place)}
        return weight_decay.decay_per_step(optimizer, group, lr)

    def _set_timescale(self, optimizer: Optimizer) -> None:
        if self._timescale_epochs is None:
            return
        steps = self._timescale_epochs * self.steps_per_epoch
        for place, group in enumerate(optimizer.param_groups):
            strength = weight_decay.strength_for(steps, optimizer, group, self.peak_lr)
            if strength is None:
                raise UserError(
                    f"timescale_epochs has no formula for {type(optimizer).__name__}: give its weight_decay"
                )
            # Only the first group decays, see parameter_groups.
            group["weight_decay"] = strength if place == 0 else 0.0


def _open_lengths(make_scheduler: Make) -> list[str]:
    """Which of the scheduler's arguments wait for the number of optimizer steps."""
    given = make_scheduler.keywords if isinstance(make_scheduler, partial) else {}
    names = _parameter_names(make_scheduler)
    return [name for name in _LENGTHS if name in names and given.get(name) in (None, -1)]


def _parameter_names(make_scheduler: Make) -> Iterable[str]:
    # LightningCLI hands over a partial of its own instantiator, with the scheduler's class among the arguments.
    parts = (make_scheduler.func, *make_scheduler.args) if isinstance(make_scheduler, partial) else (make_scheduler,)
    return [name for part in parts if callable(part) for name in inspect.signature(part).parameters]
