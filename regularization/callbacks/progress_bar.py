"""The progress bar of an epoch: with its time left on a terminal, silent elsewhere."""

import sys

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

from regularization.callbacks.running_metrics import RunningMetrics


class ProgressBar(RichProgressBar):
    """rich's bar, taken away after each epoch so that the history's lines remain.

    In a file or a pipe it shows nothing.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=10, leave=False)
        if not sys.stdout.isatty():
            self.disable()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Loss and accuracy of the last steps. No version number: the run's folder tells it already."""
        shown = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            shown |= callback.means if isinstance(callback, RunningMetrics) else {}
        return shown
