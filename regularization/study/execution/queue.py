"""The trials of one stage as an Optuna study, which coordinators on several machines may share."""

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from regularization.models.objective import ACCURACY, Objective
from regularization.runs import directory
from regularization.runs.directory import AlreadyLocked
from regularization.study.config import FAILED, Trial
from regularization.study.execution.storage import FOLDER
from regularization.study.execution.trial_process import OBJECTIVE

# User attributes of an Optuna trial: its run folder, relative to the study's; the coordinator that runs it.
RUN, COORDINATOR = "run", "coordinator"
SEED = "seed"
# Seconds between two checks of the trials that other coordinators run.
POLL = 1.0


class QueueEmpty(Exception):  # noqa: N818 - the normal end
    """No trial is left, and none is being run by another coordinator, which may die."""


class TrialQueue(optuna.Study):
    """Hands out each trial of a stage to one coordinator, and again if that coordinator has died.

    ``optimize`` asks it for trials. All decisions are made under the lock of the study's folder. The run folders are
    authoritative: a trial that is complete there is only reported to Optuna, and a trial that is complete in Optuna,
    but has no result there, is run again.

    Each coordinator holds the lock of its own folder. If this lock is free, the coordinator is dead, and so is a trial
    that it ran, as soon as the lock of the trial's run folder is free, too.

    Args:
        name: Name of the Optuna study, the same for all coordinators.
        storage: The Optuna storage.
        folder: The study's folder.
        trials: The trials of the stage.
        pruner: The pruner that ``should_prune`` uses.

    Attributes:
        planned: The trials, by their run folders.
        objective: The metric that is a trial's value.
        stopped: Returns whether to stop handing out trials.
    """

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        folder: Path,
        trials: Sequence[Trial],
        pruner: BasePruner | None = None,
        objective: Objective = ACCURACY,
    ) -> None:
        direction = StudyDirection.MAXIMIZE if objective.mode == "max" else StudyDirection.MINIMIZE
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
        study.set_user_attr(OBJECTIVE, objective.metric)
        self.objective = objective
        self._study_factory = partial(optuna.Study, name, storage, pruner=pruner or optuna.pruners.NopPruner())
        super().__init__(*self._study_factory.args, **self._study_factory.keywords)
        self.planned: dict[str, Trial] = {}
        self.stopped: Callable[[], bool] = lambda: False
        self._folder = folder
        self.plan(trials)
        self.update()
        self._coordinator = uuid4().hex
        own = self._coordinator_folder(self._coordinator)
        own.mkdir(parents=True)
        self._held = ExitStack()
        self._held.callback(shutil.rmtree, own, ignore_errors=True)
        self._held.enter_context(directory.exclusive_lock(own))

    def __reduce__(self) -> Any:
        """Pickles it as an ordinary Optuna study, for the process of a trial."""
        return self._study_factory, ()

    def plan(self, trials: Sequence[Trial]) -> None:
        """Adds trials to those that are to be run."""
        self.planned |= {self.key(trial): trial for trial in trials}

    def key(self, trial: Trial) -> str:
        """The name of a trial in the study: its run folder."""
        return trial.folder.relative_to(self._folder).as_posix()

    def update(self) -> None:
        """Adds the trials that other coordinators have planned; subclasses override it."""

    def close(self) -> None:
        """Releases the coordinator's lock, so that others may run the trials that it has not finished."""
        self._held.close()

    def ask(self, fixed_distributions: dict[str, BaseDistribution] | None = None) -> optuna.Trial:
        """The next trial, which this coordinator has to run; waits while other coordinators run trials.

        Raises:
            QueueEmpty: When no trial is left, or after a stop.
        """
        while not self.stopped():
            with suppress(AlreadyLocked), directory.exclusive_lock(self._folder, POLL):
                self.update()
                self._reap()
                if (trial := self._next()) is not None:
                    return trial
                if all(self._is_own(trial) for trial in self._in_state(TrialState.RUNNING)):
                    raise QueueEmpty
            time.sleep(POLL)
        raise QueueEmpty

    def _next(self) -> optuna.Trial | None:
        """The next planned trial, or a proposed one."""
        self._enqueue_missing()
        while self._in_state(TrialState.WAITING):
            trial = super().ask()
            if trial.user_attrs.get(RUN) in self.planned:
                trial.set_user_attr(COORDINATOR, self._coordinator)
                return trial
            self.tell(trial, state=TrialState.FAIL)  # of an arm or a seed that was removed from the study
        return self._propose()

    def _propose(self) -> optuna.Trial | None:
        """Proposes a trial that was not planned; subclasses override it."""
        return None

    def _in_state(self, state: TrialState) -> list[FrozenTrial]:
        return self.get_trials(deepcopy=False, states=(state,))

    def _reap(self) -> None:
        """Fails the trials whose processes are dead."""
        for trial in self._in_state(TrialState.RUNNING):
            if not self._is_own(trial) and self._is_dead(trial):
                # Its coordinator may have reported the result just before it died.
                with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                    self.tell(trial.number, state=TrialState.FAIL)

    def _is_own(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get(COORDINATOR) == self._coordinator)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        coordinator = trial.user_attrs.get(COORDINATOR)
        if coordinator is None:  # the coordinator that took it died before it was recorded
            return True
        return _is_free(self._coordinator_folder(coordinator)) and _is_free(self._folder / trial.user_attrs[RUN])

    def _enqueue_missing(self) -> None:
        """Enqueues the planned trials that no coordinator has run, is running or will run."""
        recorded = [trial for trial in self.get_trials(deepcopy=False) if RUN in trial.user_attrs]
        newest = {trial.user_attrs[RUN]: trial.state for trial in recorded}
        for key, trial in self.planned.items():
            state = newest.get(key, TrialState.FAIL)
            finished = state.is_finished() and (state == TrialState.FAIL or not trial.done)
            if finished and not (trial.folder / FAILED).is_file():
                self.add_trial(self._waiting(trial))

    def _waiting(self, trial: Trial) -> FrozenTrial:
        parameters = self.parameters(trial)
        distributions: dict[str, BaseDistribution] = {
            name: IntDistribution(0, max(value, 1)) if isinstance(value, int) else self.distribution(name)
            for name, value in parameters.items()
        }
        return optuna.trial.create_trial(
            state=TrialState.WAITING, params=parameters, distributions=distributions, user_attrs=self.attributes(trial)
        )

    def parameters(self, trial: Trial) -> dict[str, float | int]:
        """The parameters of the Optuna trial: the numeric options of the arm, and the seed."""
        numbers = {
            option: float(value)
            for option, value in trial.arm.values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        return numbers | {SEED: trial.seed}

    def distribution(self, option: str) -> FloatDistribution:
        """The range of an option."""
        values = [self.parameters(trial).get(option, 0.0) for trial in self.planned.values()]
        return FloatDistribution(min(values), max(values))

    def attributes(self, trial: Trial) -> dict[str, Any]:
        """The user attributes of the Optuna trial, which the dashboard shows besides its parameters."""
        attributes = {"arm": trial.arm.name, "stage": trial.stage, RUN: self.key(trial)}
        return attributes | {
            option: value for option, value in trial.arm.values.items() if isinstance(value, str | bool)
        }

    def _coordinator_folder(self, coordinator: str) -> Path:
        return self._folder / FOLDER / "coordinators" / coordinator


def _is_free(folder: Path) -> bool:
    try:
        with directory.exclusive_lock(folder, 0.0):
            return True
    except AlreadyLocked:
        return False
    except OSError:  # the folder is gone
        return True
