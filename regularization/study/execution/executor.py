"""What runs a trial, wherever that is: the interface between the coordinator and a process or a Ray task."""

from contextlib import AbstractContextManager
from typing import Protocol

import optuna

from regularization.study.config import Trial


class TrialProcess(Protocol):
    """The process of a trial. What it did is in the run folder."""

    def wait(self, seconds: float) -> bool:
        """Waits until the process has ended; returns whether it has."""

    def terminate(self) -> None:
        """Has the trial write its checkpoint and end after the step it is in."""

    def kill(self) -> None:
        """Ends the trial at once."""

    def cause(self) -> str:
        """What ended a process that left no result."""


class Executor(Protocol):
    """Runs trials, each in a process of its own.

    Attributes:
        workers: Trials at a time.
        attempts: How often a trial is run whose process dies.
    """

    workers: int
    attempts: int

    def started(self, trial: Trial, record: optuna.Trial | None) -> AbstractContextManager[TrialProcess]:
        """Starts a process that runs ``run_trial``, and releases what it occupied once it has ended."""

    def close(self) -> None:
        """Releases what the executor holds; no trial is running any more."""
