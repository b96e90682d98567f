"""Trials on this machine, each in a process of its own: what kills one, kills no other."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from regularization.study.config import Trial
from regularization.study.execution.executor import End, Epoch, TrialDied, TrialStopped
from regularization.study.execution.trial_process import run_trial

# Trials are forked from a server that has imported everything and read the images: forked from here, they would inherit
# threads that no longer run and a GPU that they can't use.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["regularization.study.execution.preload"])
_STARTING = threading.Lock()


class LocalExecutor:
    """Processes of this machine.

    Args:
        workers: Trials at a time.
        threads: CPU threads of each.
        devices: GPUs, which are shared out among them.
        first: The arguments of some trial: the images that it needs are read once for all.
    """

    # What killed it may have been a moment's lack of memory.
    attempts = 2

    def __init__(self, workers: int, threads: int, devices: int, first: Sequence[str]) -> None:
        self.workers = workers
        self._threads = threads
        self._environment = {"OMP_NUM_THREADS": str(threads), "REGULARIZATION_PRELOAD": "\n".join(first)}
        self._slots: SimpleQueue[int | None] = SimpleQueue()
        for worker in range(workers):
            self._slots.put(worker % devices if devices else None)
        # Shared with all trials; read between steps.
        self._stop: Any = processes.RawValue("b", 0)
        self._running: set[BaseProcess] = set()

    def run(self, trial: Trial, interactive: bool) -> Generator[Epoch, None, None]:
        """Runs the trial in a process; see ``Executor``."""
        device = self._slots.get()
        ours, theirs = processes.Pipe()
        process = processes.Process(target=_main, args=(trial, theirs, self._stop, interactive, self._threads, device))
        try:
            self._start(process)
            theirs.close()
            yield from self._epochs(process, ours, interactive)
        finally:
            self._running.discard(process)
            self._slots.put(device)
            ours.close()

    def _epochs(self, process: BaseProcess, connection: Connection, interactive: bool) -> Generator[Epoch, None, None]:
        train_on = True
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                process.join()
                raise TrialStopped if self._stop.value else TrialDied(_cause(process)) from None
            if isinstance(message, End):
                process.join()
                if train_on:
                    message.check()
                return
            if train_on:
                try:
                    yield message
                except GeneratorExit:
                    train_on = False
            if interactive:
                connection.send(train_on)

    def stop(self) -> None:
        """Sets the flag that trials look at."""
        self._stop.value = 1

    def kill(self) -> None:
        """Ends the processes by SIGKILL."""
        for process in list(self._running):
            process.kill()

    def close(self) -> None:
        """Nothing is held."""

    def _start(self, process: BaseProcess) -> None:
        # The server reads the environment when it starts, with the first process.
        with _STARTING, _environment(self._environment), _without_main():
            process.start()
        self._running.add(process)


def _main(trial: Trial, connection: Connection, stop: Any, interactive: bool, threads: int, device: int | None) -> None:
    if device is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[device] if visible[0] else str(device)
    # Ctrl-C on the terminal is for the coordinator, which stops the trials.
    os.setpgrp()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection.send(run_trial(trial, PipeControl(connection, stop, interactive), threads))


class PipeControl:
    """The trial's end of the pipe to its coordinator; see ``Control``."""

    def __init__(self, connection: Connection, stop: Any, interactive: bool) -> None:
        self._connection = connection
        self._stop = stop
        self._interactive = interactive

    def stop_requested(self) -> bool:
        """Reads shared memory."""
        return bool(self._stop.value)

    def report(self, epoch: Epoch) -> bool:
        """Waits for the answer where the run is interactive."""
        self._connection.send(epoch)
        return not self._interactive or bool(self._connection.recv())


def _exit_with_parent() -> None:
    """A trial must not write on into a folder that the successor of a killed coordinator takes over."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cause(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return f"its process ended by {f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'}"


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _without_main() -> Iterator[None]:
    """Starts a process without the main module: a user's script that sweeps would otherwise run again in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
