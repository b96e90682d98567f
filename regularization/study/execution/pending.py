"""The trials that wait for a worker."""

from collections.abc import Sequence

from regularization.study.config import Trial


class Pending:
    """The trials of a study that one coordinator runs alone; those of several are shared out by ``Tickets``.

    Args:
        trials: All of them; those that are done are left out.

    Attributes:
        shared: Whether there may be others.
    """

    shared = False

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = [trial for trial in trials if not trial.done]

    @property
    def waiting(self) -> int:
        """How many could be taken now."""
        return len(self._trials)

    @property
    def open(self) -> bool:
        """Whether a trial could still be taken, now or later."""
        return bool(self._trials)

    def look(self) -> None:
        """Takes stock, every second or so."""

    def take(self) -> Trial | None:
        """The next one, which nobody else gets; None when there is none now."""
        return self._trials.pop(0) if self._trials else None

    def again(self, trial: Trial) -> None:
        """Puts a trial that was taken back to the front: its worker died."""
        self._trials.insert(0, trial)

    def end(self, trial: Trial, accuracy: float, reason: str | None) -> None:
        """Notes that a trial has ended: its validation accuracy, and the reason where it failed."""

    def close(self) -> None:
        """Gives up what was taken and has not ended, for whoever goes on with the study."""
