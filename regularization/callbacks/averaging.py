"""Averaged weights, as a kind of regularization."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging


class EMA(EMAWeightAveraging):
    """Validates, tests and saves an exponential moving average of the weights: a ← decay·a + (1 − decay)·w each step.

    Polyak and Juditsky 1992 (SIAM J. Control 30). Lightning's callback, kept from handing out its average before
    there is one: until then it holds the weights that training started from.

    Args:
        decay: How much of the average stays, each step.
        start: Optimizer step, counted from 0, with which averaging starts.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        super().__init__(decay=decay, update_starting_at_step=start)
        self._swapped = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the average in."""
        if self._has_average():
            super().on_validation_epoch_start(trainer, pl_module)
            self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps it out again."""
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)
            self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swaps it out of a validation that was left, so that a checkpoint can be written."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the average in the model."""
        if self._has_average():
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the average where the weights are read from, and keeps the weights beside it."""
        if self._has_average():
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _has_average(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)
