"""The progress bar of an epoch, on a terminal only."""

import sys

from lightning import LightningModule, Trainer

from regularization.callbacks.running_metrics import RunningMetrics
from regularization.internals.lightning import ProgressBarFromOne


class ProgressBar(ProgressBarFromOne):
    """A progress bar with epochs counted from 1, removed after each epoch so that the lines of the history remain.

    If the output is not a terminal, it shows nothing.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=10, leave=False)
        if not sys.stdout.isatty():
            self.disable()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """The running metrics. The version number is left out, since the run folder is printed at the start."""
        metrics = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            metrics |= callback.means if isinstance(callback, RunningMetrics) else {}
        return metrics
