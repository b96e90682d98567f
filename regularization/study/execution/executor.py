"""What runs a trial, wherever that is: the interface between the coordinator and a process or a Ray task."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from regularization.study.config import Trial


@dataclass(frozen=True)
class Epoch:
    """Progress of a trial, reported whenever training starts or resumes and after every epoch.

    Attributes:
        number: Epochs that are finished.
        step: Optimizer steps that are finished.
        accuracy: Validation accuracy of the last epoch, NaN where it was not validated.
        started: Whether training starts or resumes here.
    """

    number: int
    step: int
    accuracy: float
    started: bool = False


@dataclass(frozen=True)
class End:
    """The end of a trial: complete, stopped on request after writing its checkpoint, or failed for a reason."""

    stopped: bool = False
    reason: str = ""

    def check(self) -> None:
        """Raises ``TrialStopped`` or ``TrialFailed`` unless the trial is complete."""
        if self.stopped:
            raise TrialStopped
        if self.reason:
            raise TrialFailed(self.reason)


class TrialFailed(Exception):  # noqa: N818 - a result of the trial
    """Training failed; the text is the reason."""


class TrialDied(Exception):  # noqa: N818 - as above
    """The trial's process ended without a result; the text is the cause."""


class TrialStopped(Exception):  # noqa: N818 - as above
    """The trial was stopped on request; it resumes from its checkpoint."""


class Executor(Protocol):
    """Runs trials, each in a process of its own.

    Attributes:
        workers: Trials at a time.
        attempts: How often a trial is run whose process dies.
    """

    workers: int
    attempts: int

    def run(self, trial: Trial, interactive: bool) -> Generator[Epoch, None, None]:
        """Trains the trial from where it is and yields its epochs; closing the iterator ends it after this epoch.

        Args:
            trial: The trial; its run folder is the record of what it did.
            interactive: Whether the trial waits after each epoch until the next one is requested.

        Raises:
            TrialFailed: When training failed.
            TrialDied: When the process died.
            TrialStopped: After ``stop`` or ``kill``.
        """

    def stop(self) -> None:
        """Has all trials write their checkpoints and end after the step they are in, also those that start later."""

    def kill(self) -> None:
        """Ends all trials at once."""

    def close(self) -> None:
        """Releases what the executor holds; no trial is running any more."""
