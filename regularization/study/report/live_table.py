"""The live table of a sweep on a terminal, with one row per arm; elsewhere, one line per trial that ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from regularization.callbacks.history import format_duration
from regularization.study.config import FAILED, Trial
from regularization.study.execution.coordinator import REASON
from regularization.study.execution.queue import RUN, TrialQueue
from regularization.study.execution.trial_process import START_STEP
from regularization.study.samplers import DecidingQueue


@dataclass
class Progress:
    """The progress of a trial.

    Attributes:
        state: ``waiting``, ``running``, ``done``, or ``failed``.
        epoch: Epochs that are finished.
        value: The objective in the last of them; None if no epoch is finished.
    """

    state: str = "waiting"
    epoch: int = 0
    value: float | None = None


class LiveTable:
    """Shows the progress of the trials of a queue, including those of other coordinators.

    Args:
        queue: The trials.
        epochs: Epochs of a trial; 0 if unknown.
    """

    def __init__(self, queue: TrialQueue, epochs: int) -> None:
        self._queue = queue
        self._epochs = epochs
        self._started = time.monotonic()
        self._shown = Table()
        self._before = self._share(self.progress())
        self._planned = len(queue.planned)
        self._announced = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draws the table while the block runs, if the output is a terminal."""
        if not sys.stdout.isatty():
            yield
            return
        with Live(console=Console(), refresh_per_second=1, get_renderable=self._current):
            yield

    def on_end(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Prints the line of a trial that has been run."""
        reason = trial.user_attrs.get(REASON)
        if sys.stdout.isatty() or START_STEP not in trial.user_attrs or trial.state == TrialState.RUNNING:
            return
        planned, objective = self._queue.planned, self._queue.objective
        name = planned[trial.user_attrs[RUN]].name
        if reason:
            outcome = f"failed: {reason}"
        elif trial.state == TrialState.PRUNED:
            outcome = "stopped early, because other arms are better"
        elif trial.value is not None:
            outcome = f"{objective.name} {objective.format(trial.value)}"
        else:
            return  # stopped on request
        if isinstance(self._queue, DecidingQueue) and not self._total() and not self._announced:
            self._announced = True
            print("not decided yet: trials are added until the result is clear", flush=True)
        progress = self.progress()
        ended = sum(item.state in ("done", "failed") for _, item in progress)
        print(f"{ended:3}{self._total()} {name}: {outcome}  {self._left(progress)}".rstrip(), flush=True)

    def progress(self) -> list[tuple[Trial, Progress]]:
        """The progress of every trial, from the Optuna study."""
        recorded = [trial for trial in self._queue.get_trials(deepcopy=False) if RUN in trial.user_attrs]
        newest = {trial.user_attrs[RUN]: trial for trial in recorded}
        return [(trial, _progress(trial, newest.get(key))) for key, trial in list(self._queue.planned.items())]

    def table(self) -> Table:
        """Arms with the trials that are done, those that run, and the mean of the objective so far."""
        progress = self.progress()
        table = Table(title=f"trials  {self._left(progress)}", title_justify="left", show_edge=False)
        for column in ("arm", "done", "running", self._queue.objective.name):
            table.add_column(column, justify="left" if column == "arm" else "right")
        for arm in dict.fromkeys(trial.arm.name for trial, _ in progress):
            own = [state for trial, state in progress if trial.arm.name == arm]
            running = [f"epoch {item.epoch}/{self._epochs or '?'}" for item in own if item.state == "running"]
            values = [item.value for item in own if item.value is not None]
            failed = sum(item.state == "failed" for item in own)
            done = f"{sum(item.state == 'done' for item in own)}/{len(own)}" + (f" {failed} failed" if failed else "")
            mean = self._queue.objective.format(float(np.mean(values))) if values else ""
            table.add_row(arm, done, ", ".join(running), mean)
        return table

    def _current(self) -> Table:
        # A storage that does not answer now may answer at the next refresh, a second later.
        with suppress(Exception):
            self._shown = self.table()
        return self._shown

    def _total(self) -> str:
        """A slash and the number of trials; empty once trials are added one at a time, as it is then unknown."""
        return f"/{self._planned}" if len(self._queue.planned) == self._planned else ""

    def _share(self, progress: list[tuple[Trial, Progress]]) -> float:
        """The fraction of all trials that is done; a running trial counts by its finished epochs."""
        shares = [
            1.0 if item.state in ("done", "failed") else item.epoch / self._epochs if self._epochs else 0.0
            for _, item in progress
        ]
        return float(np.mean(shares)) if shares else 0.0

    def _left(self, progress: list[tuple[Trial, Progress]]) -> str:
        share = self._share(progress)
        gained = share - self._before
        if gained <= 0 or share == 1 or not self._total():
            return ""
        return f"{format_duration((time.monotonic() - self._started) / gained * (1 - share))} left"


def _progress(trial: Trial, recorded: FrozenTrial | None) -> Progress:
    if recorded is None:
        return Progress("done" if trial.done else "waiting")
    states = {TrialState.RUNNING: "running", TrialState.COMPLETE: "done", TrialState.PRUNED: "done"}
    state = states.get(recorded.state, "waiting")
    if recorded.state == TrialState.FAIL and (trial.folder / FAILED).is_file():
        state = "failed"
    epoch = recorded.last_step or 0
    return Progress(state, epoch, recorded.intermediate_values.get(epoch))
