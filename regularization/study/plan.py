"""The plan of a study: its arms and trials, all parsed before the first one starts."""

import dataclasses
import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml

from regularization.callbacks.history import format_duration
from regularization.errors import UserError
from regularization.runs import directory
from regularization.study import config as study_config
from regularization.study.config import Arm, Study, Trial
from regularization.study.dry_run import DryRun
from regularization.study.execution.crew import Crew, Processes
from regularization.study.execution.storage import Storage
from regularization.training.configs import split_args

# Seconds that a coordinator waits for another one, which may be scoring the test images or training the choice again.
PATIENCE = 7 * 86400.0


class Plan:
    """A study with its arms, before anything is run.

    Args:
        study: What was asked.
        arms: Its arms.
        baseline: The arm that the others are compared with, or None.
        common: Configs and options that all trials share.
        asked: The options of the command.
    """

    def __init__(self, study: Study, arms: list[Arm], baseline: Arm | None, common: list[str], asked: Any) -> None:
        self.study = study
        self.arms = arms
        self.baseline = baseline
        self.common = common
        self.crew = _crew(asked)
        self.workers = self.crew.size
        self.threads = self.crew.threads
        self.storage = _storage(study, asked)
        self.refit = asked.refit

    def alone(self, folder: Path) -> AbstractContextManager[None]:
        """Keeps the coordinators that share a storage apart, while one of them writes what is for all of them."""
        return nullcontext() if self.storage is None else directory.exclusive_lock(folder, PATIENCE)

    def trials(self, stage: str, arms: Sequence[Arm], folder: Path) -> list[Trial]:
        """The trials of a stage."""
        seeds = self.study.seed_list() if stage == "final" else list(range(self.study.search_seeds))
        return study_config.build_trials(self.study, arms, seeds, stage, self.common, folder)

    def stage(self) -> str:
        """The first one."""
        return "search" if self.study.adaptive else "final"

    def check(self) -> None:
        """Parses every trial and makes its network, data and trainer, before the first one starts.

        Raises:
            UserError: Naming the arm that can't be run.
        """
        self.first: DryRun | None = None
        tries = Counter(arm.group for arm in self.arms if arm != self.baseline)
        if self.study.arms and len(set(tries.values())) > 1:
            said = ", ".join(f"{group} {count}" for group, count in tries.items())
            warnings.warn(f"arms don't have an equal chance, their numbers of tries differ: {said}", stacklevel=2)
        # Seeds are in the outer loop, and differ by nothing that could be refused.
        for trial in self.trials(self.stage(), self.arms, Path())[: len(self.arms)]:
            try:
                planned = DryRun(trial.args[1:])
            except UserError as mistake:
                raise UserError(f"arm {trial.arm.name}: {mistake}") from None
            if not planned.datamodule.val_size:
                raise UserError("a sweep chooses by held-out images: --data.val_size must be above 0")
            every = planned.trainer.check_val_every_n_epoch or 1
            if self.study.score == "last" and (planned.trainer.max_epochs or every) % every:
                raise UserError(f"the last epoch is not validated: --trainer.max_epochs must be a multiple of {every}")
            if self.first is None:
                # What can't be read, or has nothing to test on, is said before anything is trained.
                planned.datamodule.prepare_data()
                for stage in ("fit", "test"):
                    planned.datamodule.setup(stage)
                self.first = planned

    def describe(self) -> None:
        """Prints the trials with their steps, and what time and disk they would take."""
        assert self.first is not None
        trials = self.trials(self.stage(), self.arms, Path(self.stage()))
        for trial in trials:
            print(f"{trial.folder.parent.parent.name}  {trial.name}  {' '.join(trial.arm.args)}")
        steps, seconds, size = self.first.cost()
        total = format_duration(seconds * len(trials) / self.workers)
        print(f"{len(trials)} trials of {steps:,} steps, about {format_duration(seconds)} each and {total} in all")
        print(
            f"with {self.workers} workers of {self.threads} threads; about {size * len(trials) / 1e6:,.0f} MB of disk"
        )
        if self.study.adaptive:
            print(f"then the finalists and the baseline with {len(self.study.seed_list())} fresh seeds")

    def text(self, command: str) -> str:
        """What makes the study what it is, as YAML."""
        about = {"study": dataclasses.asdict(self.study), "options": self.common, "threads": self.threads}
        words = [word for arm in self.arms for word in arm.args]
        configs = {path: path.read_bytes() for path in split_args([*self.common, *words])[0]}
        about["configs"] = {str(path): hashlib.sha256(text).hexdigest()[:16] for path, text in configs.items()}
        named = {"baseline": None if self.baseline is None else self.baseline.name, "command": command}
        return yaml.safe_dump(about | named, sort_keys=False, allow_unicode=True)


def _crew(asked: Any) -> Crew:
    """Who runs the trials: processes of this machine, or tasks of a cluster."""
    for name in ("workers", "threads"):
        if asked[name] is not None and asked[name] < 1:
            raise UserError(f"--{name} must be at least 1, not {asked[name]}")
    if asked.ray is not None:
        from regularization.study.execution.cluster import RayTasks

        if asked.gpus is not None and asked.gpus < 0:
            raise UserError(f"--gpus must not be negative, not {asked.gpus:g}")
        return RayTasks(asked.ray, asked.workers, asked.threads, asked.gpus)
    if asked.gpus is not None:
        raise UserError("--gpus is for a cluster, with --ray; here --workers share the GPUs out")
    devices = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = asked.workers or devices or 1
    return Processes(workers, asked.threads or max(1, cores // workers), devices)


def _storage(study: Study, asked: Any) -> Storage | None:
    """What this coordinator shares with others."""
    if asked.storage is None:
        return None
    if asked.fresh:
        raise UserError("--fresh can't be said by several at once: with --storage, name another --folder")
    if study.search == "tpe":
        raise UserError("search tpe proposes from one place: use --ray to run it on several machines, or halving")
    return Storage(asked.storage)
