"""OptimizerFactory: makes the optimizer and the scheduler of the config, and sets λ, for a run of a given length."""

import math
from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from regularization.errors import UserError, find_foreign_error
from regularization.optim import weight_decay
from regularization.optim.hyperparameters import Scheduler, hyperparameters, replay_schedule
from regularization.optim.schedules import SchedulerMaker, StrengthSchedule, missing_lengths
from regularization.optim.weight_decay import Decay

OptimizerMaker = Callable[..., Optimizer]


class OptimizerFactory:
    """Makes the optimizer and the scheduler, sets λ from a timescale, and applies the schedule of λ.

    Args:
        network: The network whose parameters are optimized.
        optimizer: Makes the optimizer from parameter groups.
        lr_scheduler: Makes the scheduler from the optimizer; None keeps the learning rate constant.
        decay: The parameters that weight decay acts on, see ``parameter_groups``.
        decay_schedule: Schedule of λ; None keeps it constant.
        timescale_epochs: The timescale τ in epochs, from which λ is set; None keeps the λ of the optimizer.

    Attributes:
        steps: Optimizer steps of the whole run; infinite if it has no end.
        steps_per_epoch: Optimizer steps per epoch.
        peak_lr: The highest learning rate of the schedule.
        hyperparameters: The hyperparameters of a fresh optimizer and scheduler, see ``hyperparameters``.

    Raises:
        UserError: If the optimizer or the scheduler rejects its arguments, or there is no formula for τ.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerMaker,
        lr_scheduler: SchedulerMaker | None,
        decay: Decay,
        decay_schedule: StrengthSchedule | None,
        timescale_epochs: float | None,
    ) -> None:
        if timescale_epochs is not None and not timescale_epochs > 0:
            raise UserError(f"--model.timescale_epochs must be above 0, not {timescale_epochs}")
        self._network = network
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self._decay = decay
        self._decay_schedule = decay_schedule
        self._timescale_epochs = timescale_epochs
        self._cycles_momentum = False
        self._lr: float | None = None  # replaces the optimizer's own learning rate, see set_lr
        # A provisional length until ``prepare``: this build only checks the arguments, before minutes of preparation.
        self.steps, self.steps_per_epoch = 1000.0, 1000
        self.peak_lr = 1.0
        self.hyperparameters = hyperparameters(*self.build())

    def prepare(self, steps: float, steps_per_epoch: int) -> None:
        """Sets the length of the run, and finds the highest learning rate of its schedule.

        Args:
            steps: Optimizer steps of the run, or infinity.
            steps_per_epoch: Optimizer steps per epoch.

        Raises:
            UserError: If a schedule needs an end that the run does not have, or ends before the run does.
        """
        if steps == math.inf and (self._make_scheduler is not None or self._decay_schedule is not None):
            raise UserError(
                "the schedule needs a fixed training length: set --trainer.max_epochs or --trainer.max_steps"
            )
        self.steps = steps
        self.steps_per_epoch = max(1, steps_per_epoch)
        self.peak_lr = max(self._learning_rates()) or 1.0  # If all are 0, the peak does not matter.
        self.hyperparameters = hyperparameters(*self.build())

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of the optimizers that are made from here on."""
        self._lr = lr
        self.hyperparameters = hyperparameters(*self.build())

    def build(self) -> tuple[Optimizer, Scheduler | None]:
        """Makes a fresh optimizer and scheduler.

        Raises:
            UserError: If they reject their arguments, for instance a negative λ.
        """
        try:
            optimizer = self._make_optimizer(weight_decay.parameter_groups(self._network, self._decay))
            if self._lr is not None:
                optimizer.param_groups[0]["lr"] = optimizer.param_groups[-1]["lr"] = self._lr
            self._set_timescale(optimizer)
            if self._make_scheduler is None:
                return optimizer, None
            lengths = dict.fromkeys(missing_lengths(self._make_scheduler), max(1, int(self.steps)))
            scheduler = self._make_scheduler(optimizer, **lengths)
            self._check_momentum(scheduler)
            return optimizer, scheduler
        except (ValueError, TypeError) as error:
            if find_foreign_error(error):
                raise
            raise UserError(f"cannot create the optimizer or its scheduler: {error}") from error

    def interval(self, scheduler: Scheduler) -> str:
        """``step`` for a scheduler that counts optimizer steps, otherwise ``epoch``."""
        counts_steps = isinstance(scheduler, OneCycleLR | CyclicLR) or hasattr(scheduler, "total_steps")
        assert self._make_scheduler is not None
        return "step" if counts_steps or missing_lengths(self._make_scheduler) else "epoch"

    def progress(self, step: int, optimizer: Optimizer) -> tuple[float, float]:
        """``(time, lr_ratio)``, on which the schedules of λ depend.

        Args:
            step: Optimizer steps done so far.
            optimizer: The optimizer, with the current learning rate.

        Returns:
            The fraction of the training that is done, and the current learning rate divided by its peak.
        """
        return min(1.0, step / self.steps), float(optimizer.param_groups[0]["lr"]) / self.peak_lr

    def apply_decay_schedule(self, optimizer: Optimizer, progress: tuple[float, float]) -> None:
        """Sets the λ of each parameter group to its scheduled value at ``progress``."""
        for index, group in enumerate(optimizer.param_groups):
            # Also without a schedule: a restored group may hold the λ of a schedule that the config no longer has. A
            # group that a callback has added keeps its own.
            if "weight_decay" in group and index < len(self.hyperparameters["groups"]):
                group["weight_decay"] = self.base_weight_decay(index) * self._decay_factor(*progress)

    def base_weight_decay(self, group_index: int) -> float:
        """The λ of the config for a parameter group, before its schedule."""
        return float(self.hyperparameters["groups"][group_index].get("weight_decay", 0.0))

    def tau(self, optimizer: Optimizer, group_index: int) -> float | None:
        """τ in epochs at the peak learning rate; infinite without weight decay, None without a formula.

        There is none if the scheduler changes the momentum.
        """
        group = optimizer.param_groups[group_index] | {"weight_decay": self.base_weight_decay(group_index)}
        per_step = weight_decay.decay_per_step(optimizer, group, self.peak_lr)
        if self._cycles_momentum and per_step:
            return None
        return None if per_step is None else 1 / (per_step * self.steps_per_epoch) if per_step else math.inf

    def _check_momentum(self, scheduler: Scheduler) -> None:
        self._cycles_momentum = getattr(scheduler, "cycle_momentum", False)
        if self._cycles_momentum and self._timescale_epochs is not None:
            name = type(scheduler).__name__
            raise UserError(
                f"timescale_epochs: {name} changes the momentum, on which τ depends: set cycle_momentum: false"
            )

    def _decay_factor(self, time: float, lr_ratio: float) -> float:
        return 1.0 if self._decay_schedule is None else self._decay_schedule.factor(time, lr_ratio)

    def _learning_rates(self) -> list[float]:
        """The scheduled learning rates of the run, one per step of the scheduler."""
        optimizer, scheduler = self.build()
        if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
            return [float(optimizer.param_groups[0]["lr"])]
        try:
            length = self.steps if self.interval(scheduler) == "step" else math.ceil(self.steps / self.steps_per_epoch)
            return replay_schedule(scheduler, int(length) - 1)
        except ValueError as error:
            raise UserError(f"the scheduler ends before the training does: {error}") from error

    def _set_timescale(self, optimizer: Optimizer) -> None:
        if self._timescale_epochs is None:
            return
        steps = self._timescale_epochs * self.steps_per_epoch
        for index, group in enumerate(optimizer.param_groups):
            strength = weight_decay.strength_for(steps, optimizer, group, self.peak_lr)
            if strength is None:
                raise UserError(
                    f"timescale_epochs has no formula for {type(optimizer).__name__}: set its weight_decay instead"
                )
            # Only the first group decays, see parameter_groups.
            group["weight_decay"] = strength if index == 0 else 0.0
