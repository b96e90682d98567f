"""The interface between the coordinator and the processes or Ray tasks that run trials."""

from contextlib import AbstractContextManager
from typing import Protocol

import optuna

from regularization.study.config import Trial


class TrialProcess(Protocol):
    """The process of a trial. It writes its results to the run folder."""

    def wait(self, seconds: float) -> bool:
        """Waits until the process has ended; returns whether it has."""

    def terminate(self) -> None:
        """Requests that the trial write its checkpoint and end after the current step."""

    def kill(self) -> None:
        """Ends the trial at once."""

    def cause(self) -> str:
        """Why the process ended without a result."""


class Executor(Protocol):
    """Runs trials, each in a process of its own.

    Attributes:
        workers: Number of trials that run at a time.
        attempts: How often a trial is run if its process dies.
    """

    workers: int
    attempts: int

    def started(self, trial: Trial, record: optuna.Trial | None) -> AbstractContextManager[TrialProcess]:
        """Starts a process that runs ``run_trial``; its resources are released on exit, when it has ended."""

    def close(self) -> None:
        """Releases what the executor holds; no trial is running any more."""
