"""The runner: hands trials to the workers of a crew, and keeps a log of what was run from which step."""

import csv
import fcntl
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.runs import directory
from regularization.study.config import FAILED, Trial
from regularization.study.execution.crew import Crew, Worker
from regularization.study.execution.pending import Pending

LOG = "log.csv"


@dataclass
class Progress:
    """How far a trial is.

    Attributes:
        state: ``waiting``, ``running``, ``done``, or ``failed``.
        epoch: Epochs that are done.
        epochs: Epochs that it has.
        accuracy: Validation accuracy of the last of them.
        reason: Why it failed.
    """

    state: str = "waiting"
    epoch: int = 0
    epochs: int = 0
    accuracy: float = float("nan")
    reason: str = ""


class Runner:
    """Runs trials; results are what the trials leave in their folders.

    Args:
        folder: The study's folder, which gets ``log.csv``.
        crew: Who runs them.
        judge: Told of every epoch, says whether the trial is to go on; None lets all run to their end.
        show: Called with the progress whenever there is some.
    """

    def __init__(
        self,
        folder: Path,
        crew: Crew,
        judge: Callable[[Trial, int, float], bool] | None = None,
        show: Callable[[dict[str, Progress]], None] = lambda progress: None,
    ) -> None:
        self._folder = folder
        self._crew = crew
        self._judge = judge
        self._show = show
        self._workers: list[Worker] = []
        self._deaths: Counter[str] = Counter()
        self._signals: list[int] = []
        self._obeyed = 0
        self._bell, self._cord = multiprocessing.Pipe(duplex=False)
        self.progress: dict[str, Progress] = {}

    def run(self, trials: Sequence[Trial], pending: Pending | None = None) -> dict[str, str]:
        """Runs those that are not done; returns the reasons of those that failed, by name.

        Args:
            trials: All of them.
            pending: Where they are taken from, by default from a queue of its own.

        Raises:
            RunInterrupted: After a SIGINT or SIGTERM, when the workers have written their checkpoints.
        """
        self._trials = trials
        self._pending = Pending(trials) if pending is None else pending
        self.progress = {trial.name: Progress("done" if trial.done else "waiting") for trial in trials}
        with self._listening():
            try:
                self._crew.begin(self._folder)
                self._serve()
            finally:
                self._dismiss()
        if self._signals:
            raise RunInterrupted(self._signals[-1])
        self._look_round()
        return {name: one.reason for name, one in self.progress.items() if one.state == "failed"}

    def _serve(self) -> None:
        self._pending.look()
        while any(worker.trial for worker in self._workers) or (self._pending.open and not self._signals):
            self._staff()
            lines = {worker.connection: worker for worker in self._workers}
            for ready in wait([self._bell, *lines], timeout=1):
                if ready is self._bell:
                    self._bell.recv()
                else:
                    self._hear(lines[ready])  # type: ignore[index]
            self._obey()
            for worker in [worker for worker in self._workers if worker.number in self._crew.gone()]:
                self._bury(worker)
            self._pending.look()
            self._look_round()
            self._show(self.progress)

    def _staff(self) -> None:
        """Gives work to those who have none, and hires where there is more of it."""
        for worker in list(self._workers):
            self._assign(worker)
        busy = sum(worker.trial is not None for worker in self._workers)
        wanted = 0 if self._signals else min(self._crew.size, busy + self._pending.waiting)
        for _ in range(wanted - len(self._workers) - self._crew.coming):
            self._crew.hire()
        for worker in self._crew.arrived():
            self._workers.append(worker)
            self._assign(worker)

    def _assign(self, worker: Worker) -> None:
        if worker.trial is not None or self._signals or not self._pending.waiting:
            return
        if (trial := self._pending.take()) is not None:
            worker.trial = trial
            trial.plan()
            self.progress[trial.name].state = "running"
            self._send(worker, (trial, self._judge is not None))

    def _send(self, worker: Worker, message: Any) -> None:
        try:
            worker.connection.send(message)
        except OSError:
            self._bury(worker)

    def _hear(self, worker: Worker) -> None:
        if worker not in self._workers:
            return
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if (trial := worker.trial) is None:
            return  # it was told to stop just when its trial ended, and says both
        now = self.progress[trial.name]
        if kind == "start":
            self._log("start", trial, content[0])
        elif kind == "epoch":
            epoch, now.epochs, step, now.accuracy = content
            now.epoch = epoch + 1
            self._log("epoch", trial, step)
            if self._judge is not None and now.epoch < now.epochs:
                self._send(worker, self._judge(trial, epoch, now.accuracy))
        elif kind in ("end", "busy"):
            worker.trial = None
            if kind == "busy" and self._pending.shared:
                # Another coordinator, taken for dead while it was only slow, is at it still.
                now.state = "waiting"
                self._pending.again(trial)
            else:
                self._close(trial, content[0])
            self._assign(worker)
        # A worker that was stopped says so, and goes: the line breaks.

    def _close(self, trial: Trial, reason: str | None) -> None:
        now = self.progress[trial.name]
        now.state = "done" if reason is None else "failed"
        now.reason = reason or ""
        if reason is None:
            (trial.folder / FAILED).unlink(missing_ok=True)
        else:
            directory.write_text(trial.folder / FAILED, reason + "\n")
        self._log("end" if reason is None else "failed", trial, "")
        self._pending.end(trial, now.accuracy, reason)

    def _bury(self, worker: Worker) -> None:
        """A worker is dead; its trial goes on with another one, or has failed, or waits for the study to go on."""
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        worker.connection.close()
        cause = self._crew.bury(worker)
        if (trial := worker.trial) is None:
            return
        worker.trial = None
        self._deaths[trial.name] += 1
        if self._signals:
            return  # the study is not over, only this command
        if self._deaths[trial.name] < self._crew.lives:
            self._log("lost", trial, "")
            self.progress[trial.name].state = "waiting"
            self._pending.again(trial)
        else:
            self._close(trial, cause)

    def _look_round(self) -> None:
        """Takes note of what other coordinators have done, which only the folders tell."""
        for trial in self._trials:
            now = self.progress[trial.name]
            if now.state != "waiting":
                continue
            if trial.done:
                now.state = "done"
            elif not self._pending.open and (trial.folder / FAILED).is_file():
                now.state, now.reason = "failed", (trial.folder / FAILED).read_text().strip()

    def _obey(self) -> None:
        """A first signal is handed on to the workers, which end their step and write; a second one ends all at once."""
        for _ in self._signals[self._obeyed : 2]:
            tell = self._crew.kill if self._obeyed else self._crew.stop
            self._obeyed += 1
            for worker in self._workers:
                if worker.trial is not None:
                    tell(worker)

    def _dismiss(self) -> None:
        for worker in self._workers:
            if worker.trial is None:
                with suppress(OSError):
                    worker.connection.send(None)
            else:
                self._crew.kill(worker)
        self._crew.end()
        self._workers.clear()
        self._pending.close()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals only ring: what they ask for is done between two messages, never in the middle of one."""

        def note(number: int, _: Any) -> None:
            self._signals.append(number)
            self._cord.send(None)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _log(self, event: str, trial: Trial, step: object) -> None:
        with (self._folder / LOG).open("a", newline="") as file:
            # Coordinators on other machines write here too, and a network's file system may not append in one step.
            fcntl.flock(file, fcntl.LOCK_EX)
            csv.writer(file).writerow([f"{time.time():.2f}", event, trial.stage, trial.arm.name, trial.seed, step])
