"""The progress bar of an epoch: with its time left on a terminal, silent elsewhere."""

import sys

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class Progress(RichProgressBar):
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
        """The run's metrics, without the version number that its folder tells already."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
