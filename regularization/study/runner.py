"""The runner: hands trials to worker processes, and keeps a log of what was run from which step."""

import csv
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from regularization import runs
from regularization.callbacks.saving import Stopped
from regularization.study.space import FAILED, Trial
from regularization.study.worker import work

# Workers are forked from a server that has imported everything and done nothing: forked from here, they would inherit
# threads that no longer run and a GPU that they can't use.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["regularization.experiment"])
LOG = "log.csv"


@contextmanager
def _without_main() -> Iterator[None]:
    """Has a process begin without the main module: a user's script that sweeps would otherwise run again in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


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


@dataclass
class Worker:
    """A process, the line to it, and the trial that it is at."""

    process: BaseProcess
    connection: Connection
    trial: Trial | None = None


class Runner:
    """Runs trials on ``workers`` processes; results are what the trials leave in their folders.

    Args:
        folder: The study's folder, which gets ``log.csv``.
        workers: Processes that run at the same time.
        threads: CPU threads of each.
        devices: GPUs, shared out among the workers.
        judge: Told of every epoch, says whether the trial is to go on; None lets all run to their end.
        show: Called with the progress whenever there is some.
    """

    def __init__(
        self,
        folder: Path,
        workers: int,
        threads: int,
        devices: int = 0,
        judge: Callable[[Trial, int, float], bool] | None = None,
        show: Callable[[dict[str, Progress]], None] = lambda progress: None,
    ) -> None:
        self._folder = folder
        self._size = workers
        self._threads = threads
        self._devices = devices
        self._judge = judge
        self._show = show
        self._workers: list[Worker] = []
        self._signal: int | None = None
        self.progress: dict[str, Progress] = {}

    def run(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Runs those that are not done; returns the reasons of those that failed, by name.

        Raises:
            Stopped: After a SIGINT or SIGTERM, when the workers have written their checkpoints.
        """
        self.progress = {trial.name: Progress("done" if trial.done else "waiting") for trial in trials}
        pending = [trial for trial in trials if not trial.done]
        with self._listening():
            self._workers = [self._hire(number) for number in range(min(self._size, len(pending)))]
            try:
                self._serve(pending)
            finally:
                self._dismiss()
        if self._signal is not None:
            raise Stopped(self._signal)
        return {name: one.reason for name, one in self.progress.items() if one.state == "failed"}

    def _serve(self, pending: list[Trial]) -> None:
        for worker in list(self._workers):
            try:
                self._assign(worker, pending)
            except OSError:
                self._replace(worker, pending)
        while any(worker.trial for worker in self._workers):
            busy = [worker for worker in self._workers if worker.trial]
            for ready in wait([worker.connection for worker in busy], timeout=1):
                worker = next(one for one in busy if one.connection is ready)
                try:
                    self._hear(worker, worker.connection.recv(), pending)
                except (EOFError, OSError):
                    self._replace(worker, pending)
            self._show(self.progress)

    def _hear(self, worker: Worker, message: tuple[Any, ...], pending: list[Trial]) -> None:
        trial = worker.trial
        assert trial is not None
        now = self.progress[trial.name]
        kind, *content = message
        if kind == "start":
            self._log("start", trial, content[0])
        elif kind == "epoch":
            epoch, now.epochs, step, now.accuracy = content
            now.epoch = epoch + 1
            self._log("epoch", trial, step)
            if self._judge is not None and now.epoch < now.epochs:
                worker.connection.send(self._judge(trial, epoch, now.accuracy))
        elif kind == "end":
            self._close(trial, content[0])
            self._assign(worker, pending)
        else:
            worker.trial = None

    def _close(self, trial: Trial, reason: str | None) -> None:
        now = self.progress[trial.name]
        now.state = "done" if reason is None else "failed"
        now.reason = reason or ""
        if reason is None:
            (trial.folder / FAILED).unlink(missing_ok=True)
        else:
            runs.write_text(trial.folder / FAILED, reason + "\n")
        self._log("end" if reason is None else "failed", trial, "")

    def _assign(self, worker: Worker, pending: list[Trial]) -> None:
        worker.trial = pending.pop(0) if pending and self._signal is None else None
        if worker.trial is not None:
            worker.trial.plan()
            self.progress[worker.trial.name].state = "running"
            worker.connection.send((worker.trial, self._judge is not None))
            if self._signal is not None and worker.process.is_alive():
                worker.process.terminate()  # it came between, and was handed on to the others

    def _replace(self, worker: Worker, pending: list[Trial]) -> None:
        """A worker that died takes its trial's failure with it, and another one takes its place."""
        assert worker.trial is not None
        worker.process.join()
        if self._signal is not None:
            worker.trial = None
            return
        code = worker.process.exitcode or 0
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._close(worker.trial, f"its process ended by {cause}")
        worker.trial = None
        if pending:
            place = self._workers.index(worker)
            self._workers[place] = self._hire(place)
            self._assign(self._workers[place], pending)

    def _hire(self, number: int) -> Worker:
        ours, theirs = processes.Pipe()
        device = number % self._devices if self._devices else None
        # Before the interpreter starts: some libraries read it when they are imported.
        os.environ["OMP_NUM_THREADS"] = str(self._threads)
        process = processes.Process(target=work, args=(theirs, self._threads, device))
        with _without_main():
            process.start()
        theirs.close()
        return Worker(process, ours)

    def _dismiss(self) -> None:
        for worker in self._workers:
            if worker.trial is None:
                try:
                    worker.connection.send(None)
                except OSError:
                    continue
            else:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """A first signal is handed on to the workers, which end their step and write; a second one ends all at once."""

        def note(number: int, _: Any) -> None:
            first = self._signal is None
            self._signal = number
            for worker in self._workers:
                if worker.trial is not None and worker.process.pid is not None:
                    worker.process.terminate() if first else worker.process.kill()

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _log(self, event: str, trial: Trial, step: object) -> None:
        with (self._folder / LOG).open("a", newline="") as file:
            csv.writer(file).writerow([f"{time.time():.2f}", event, trial.stage, trial.arm.name, trial.seed, step])
