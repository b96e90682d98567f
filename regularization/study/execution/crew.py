"""The crew of a study: the processes of this machine that run its trials; those of a cluster are in ``cluster``."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Protocol

from regularization.study.config import Trial
from regularization.study.execution.worker import work

# Workers are forked from a server that has imported everything and done nothing: forked from here, they would inherit
# threads that no longer run and a GPU that they can't use.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["regularization.training.command"])


@dataclass
class Worker:
    """One of a crew: its number, the line to it, and the trial that it is at."""

    number: int
    connection: Connection
    trial: Trial | None = None


class Crew(Protocol):
    """Those who run trials.

    Attributes:
        size: Trials at a time.
        threads: CPU threads of each.
        lives: How many workers a trial may cost before it has failed.
        coming: How many were hired and have not arrived.
    """

    size: int
    threads: int
    lives: int

    @property
    def coming(self) -> int: ...  # noqa: D102 - said above

    def begin(self, folder: Path) -> None:
        """Gets ready for trials of the study in ``folder``."""

    def hire(self) -> None:
        """Has one more worker come."""

    def arrived(self) -> list[Worker]:
        """Those who have come since this was last asked."""

    def gone(self) -> set[int]:
        """The numbers of those who are known to be dead though the line to them still stands."""

    def stop(self, worker: Worker) -> None:
        """Asks a worker to end its step, to write, and to go."""

    def kill(self, worker: Worker) -> None:
        """Ends a worker at once."""

    def bury(self, worker: Worker) -> str:
        """Forgets a worker whose line is broken, and says what it died of."""

    def end(self) -> None:
        """Waits until all are gone: those who were told None or killed, and those who have not arrived."""


class Processes:
    """Processes of this machine. One that dies takes its trial with it: what kills here would kill again.

    Args:
        size: How many.
        threads: CPU threads of each.
        devices: GPUs, shared out among them.
    """

    lives = 1
    coming = 0

    def __init__(self, size: int, threads: int, devices: int = 0) -> None:
        self.size = size
        self.threads = threads
        self._devices = devices
        self._processes: dict[int, BaseProcess] = {}
        self._new: list[Worker] = []

    def begin(self, folder: Path) -> None:
        """Nothing: they find the folder where it is."""

    def hire(self) -> None:
        """Starts a process."""
        number = next(number for number in range(self.size) if number not in self._processes)
        ours, theirs = processes.Pipe()
        device = number % self._devices if self._devices else None
        # Before the interpreter starts: some libraries read it when they are imported.
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        process = processes.Process(target=work, args=(theirs, self.threads, device))
        with _without_main():
            process.start()
        theirs.close()
        self._processes[number] = process
        self._new.append(Worker(number, ours))

    def arrived(self) -> list[Worker]:
        """Processes are there at once."""
        new, self._new = self._new, []
        return new

    def gone(self) -> set[int]:
        """None: the system closes the line of a process that dies."""
        return set()

    def stop(self, worker: Worker) -> None:
        """By SIGTERM."""
        self._processes[worker.number].terminate()

    def kill(self, worker: Worker) -> None:
        """By SIGKILL."""
        self._processes[worker.number].kill()

    def bury(self, worker: Worker) -> str:
        """Its exit code, or the signal that ended it."""
        process = self._processes.pop(worker.number)
        process.join()
        code = process.exitcode or 0
        return f"its process ended by {f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'}"

    def end(self) -> None:
        """Waits for the processes."""
        for process in self._processes.values():
            process.join()
        self._processes.clear()


@contextmanager
def _without_main() -> Iterator[None]:
    """Has a process begin without the main module: a user's script that sweeps would otherwise run again in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
