"""The plan of a study: its arms and trials, all parsed before the first one starts."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from regularization.errors import UserError
from regularization.models.metrics import check_is_metric
from regularization.models.objective import Objective
from regularization.study import config as study_config
from regularization.study.config import Arm, Study, Trial
from regularization.study.dry_run import DryRun
from regularization.study.execution.executor import Executor
from regularization.study.execution.local import LocalExecutor


class Plan:
    """A study with its arms, before anything is run.

    Args:
        study: The study.
        arms: Its arms.
        baseline: The arm that the others are compared with, or None.
        common: Configs and options that all trials share.
        options: The options of the command.
    """

    def __init__(self, study: Study, arms: list[Arm], baseline: Arm | None, common: list[str], options: Any) -> None:
        self.study = study
        self.arms = arms
        self.baseline = baseline
        self.common = common
        self.options = options
        self.workers, self.threads = _workers_and_threads(options)
        self.refit = options.refit
        self.first: DryRun | None = None
        # Names of the arms in the final stage; an adaptive search determines them when it ends.
        self.compared = None if study.adaptive else [arm.name for arm in arms]

    def executor(self) -> Executor:
        """Creates the executor: processes on this machine, or tasks on a Ray cluster, to which it connects."""
        if self.options.ray is not None:
            from regularization.study.execution.ray import RayExecutor

            return RayExecutor(self.options.ray, self.workers, self.threads, self.options.gpus)
        first = self.trials(self.stage(), self.arms[:1], Path())[0].args
        return LocalExecutor(self.workers or 1, self.threads, torch.cuda.device_count(), first)

    @property
    def epochs(self) -> int:
        """Epochs of a trial; 0 if unknown."""
        return max(0, self.first.trainer.max_epochs or 0) if self.first is not None else 0

    def trials(self, stage: str, arms: Sequence[Arm], folder: Path, seeds: Sequence[int] | None = None) -> list[Trial]:
        """The trials of a stage with the given seeds, by default those with which the stage begins."""
        if seeds is None:
            seeds = self.study.first_seeds() if stage == "final" else range(self.study.search_seeds)
        return study_config.build_trials(self.study, arms, seeds, stage, self.common, folder)

    def with_refined(self, arms: list[Arm], trials: Iterable[Trial]) -> list[Arm]:
        """The arms, and those that were added while the study ran, in the order of their values."""
        every = list({arm.name: arm for arm in [*arms, *(trial.arm for trial in trials)]}.values())
        axis = self.study.axis
        return sorted(every, key=lambda arm: float(arm.values[axis])) if axis and len(every) > len(arms) else arms

    def baseline_among(self, arms: Sequence[Arm]) -> Arm:
        """The baseline that ``until: decided`` compares with.

        Raises:
            UserError: When there is none.
        """
        if self.baseline is None or self.baseline not in arms:
            raise UserError("until: decided needs a baseline: one arm with λ = 0, or the arm that baseline names")
        return self.baseline

    def first_arms(self) -> list[Arm]:
        """The arms with which the first stage begins: all, or those without regularization if TPE proposes others."""
        return [arm for arm in self.arms if arm.unregularized] if self.study.search == "tpe" else self.arms

    def stage(self) -> str:
        """Name of the first stage: ``search`` or ``final``."""
        return "search" if self.study.adaptive else "final"

    def check(self) -> None:
        """Parses a trial of every arm and creates its network, data and trainer, before the first trial starts.

        Raises:
            UserError: When an arm can't be run; the message names it.
        """
        if self.study.until == "decided":
            self.baseline_among(self.arms)
        elif self.study.until == "seeds" and (self.options.trials or self.options.hours):
            raise UserError("--trials and --hours are limits for until: decided")
        tries = Counter(arm.group for arm in self.arms if self.baseline is None or arm.group != self.baseline.group)
        if self.study.arms and len(set(tries.values())) > 1:
            counts = ", ".join(f"{group} {count}" for group, count in tries.items())
            warnings.warn(f"arms are not tuned with the same number of trials: {counts}", stacklevel=2)
        # One trial per arm (seeds are in the outer loop): no seed can make a trial invalid.
        for trial in self.trials(self.stage(), self.arms, Path())[: len(self.arms)]:
            try:
                planned = DryRun(trial.args)
            except UserError as mistake:
                raise UserError(f"arm {trial.arm.name}: {mistake}") from None
            for warning in planned.warnings:
                warnings.warn(f"arm {trial.arm.name}: {warning}", stacklevel=2)
            self._check_validation(planned)
            if self.study.search == "halving" and (planned.trainer.max_epochs or 0) < 2:
                raise UserError("search: halving stops trials between epochs: --trainer.max_epochs must be 2 or more")
            if self.first is None:
                # Data that can't be read, or without test images, is reported before anything is trained.
                planned.datamodule.prepare_data()
                for stage in ("fit", "test"):
                    planned.datamodule.setup(stage)
                self.first = planned

    def _check_validation(self, planned: DryRun) -> None:
        if not planned.datamodule.val_size:
            raise UserError("a sweep chooses by held-out images: --data.val_size must be above 0")
        objective = Objective.parse(self.study.objective)
        check_is_metric("the objective", objective.metric, [planned.model, *planned.callbacks])
        if Objective.parse(planned.config.objective) != objective:
            raise UserError(
                f"the base config has objective: {planned.config.objective}, and the study {self.study.objective}: "
                "give objective in the study"
            )
        every = planned.trainer.check_val_every_n_epoch or 1
        if self.study.score == "last" and (planned.trainer.max_epochs or every) % every:
            raise UserError(f"the last epoch is not validated: --trainer.max_epochs must be a multiple of {every}")


def _workers_and_threads(options: Any) -> tuple[int | None, int]:
    """The number of workers (None for as many as a cluster has room for) and the CPU threads of each.

    Raises:
        UserError: When the options do not fit together.
    """
    for name in ("workers", "threads"):
        if options[name] is not None and options[name] < 1:
            raise UserError(f"--{name} must be at least 1, not {options[name]}")
    if options.ray is not None:
        if options.gpus is not None and options.gpus < 0:
            raise UserError(f"--gpus must not be negative, not {options.gpus:g}")
        return options.workers, options.threads or 1
    if options.gpus is not None:
        raise UserError("--gpus is for a cluster, with --ray; here --workers share the GPUs out")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = options.workers or torch.cuda.device_count() or 1
    return workers, options.threads or max(1, cores // workers)
