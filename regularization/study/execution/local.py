"""Runs trials on this machine, each in its own process, so that a crash affects a single trial."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from queue import SimpleQueue
from types import ModuleType

import optuna

from regularization.study.config import Trial
from regularization.study.execution.trial_process import run_trial

# Trials are forked from a server that has imported everything and read the images: forked from here, they would inherit
# threads that no longer run and a GPU that they can't use.
multiprocessing.get_context("forkserver").set_forkserver_preload(["regularization.study.execution.preload"])
_STARTING = threading.Lock()


class LocalExecutor:
    """Runs trials in processes on this machine.

    Args:
        workers: Number of trials at a time.
        threads: Number of CPU threads of each trial.
        devices: Number of GPUs, which are distributed over the workers.
        first: The arguments of one trial; the images that it needs are read once for all trials.
    """

    # A process may have been killed by a temporary lack of memory.
    attempts = 2

    def __init__(self, workers: int, threads: int, devices: int, first: Sequence[str]) -> None:
        self.workers = workers
        self._threads = threads
        self._environment = {"OMP_NUM_THREADS": str(threads), "REGULARIZATION_PRELOAD": "\n".join(first)}
        self._slots: SimpleQueue[int | None] = SimpleQueue()
        for worker in range(workers):
            self._slots.put(worker % devices if devices else None)

    @contextmanager
    def started(self, trial: Trial, record: optuna.Trial | None) -> Iterator["LocalProcess"]:
        """Starts a process on the next free GPU; see ``Executor``."""
        device = self._slots.get()
        process = LocalProcess(trial, record, self._threads, device)
        try:
            # The server reads the environment when it starts, with the first process.
            with _STARTING, _start_environment(self._environment):
                process.start()
            yield process
        finally:
            self._slots.put(device)

    def close(self) -> None:
        """Does nothing: there are no resources to release."""


class LocalProcess(ForkServerProcess):
    """The process of a trial; see ``TrialProcess``."""

    def __init__(self, trial: Trial, record: optuna.Trial | None, threads: int, device: int | None) -> None:
        super().__init__()
        self._arguments = (trial, record, threads)
        self._device = device

    def run(self) -> None:
        """Runs the trial; called in the process."""
        if self._device is not None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            os.environ["CUDA_VISIBLE_DEVICES"] = visible[self._device] if visible[0] else str(self._device)
        # The terminal must send Ctrl-C only to the coordinator, which stops the trials.
        os.setpgrp()
        threading.Thread(target=_exit_with_parent, daemon=True).start()
        run_trial(*self._arguments)

    def wait(self, seconds: float) -> bool:
        """Waits until the process has ended; returns whether it has."""
        self.join(seconds)
        return not self.is_alive()

    def cause(self) -> str:
        """The signal or the exit code with which the process ended."""
        code = self.exitcode or 0
        return f"its process ended by {f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'}"


def _exit_with_parent() -> None:
    """Ends the trial with its coordinator: it must not write to a folder that another coordinator may take over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _start_environment(environment: dict[str, str]) -> Iterator[None]:
    """Sets environment variables and removes the main module: a user's script would run again in each process."""
    before, main = os.environ.copy(), sys.modules["__main__"]
    os.environ.update(environment)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name in environment:
            del os.environ[name]
            if name in before:
                os.environ[name] = before[name]
