"""Callbacks of a trial: it reports its epochs to the coordinator of the sweep and stops on request."""

import signal
from pathlib import Path
from typing import Any, Protocol

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from regularization.models.classifier import ImageClassifier
from regularization.study.config import PRUNED
from regularization.study.execution.executor import Epoch


class Control(Protocol):
    """The trial's end of the connection to its coordinator."""

    def stop_requested(self) -> bool:
        """Whether the trial is to end after this step."""

    def report(self, epoch: Epoch) -> bool:
        """Sends the progress; returns whether to train on."""


class StopBetweenSteps(Callback):
    """Looks at the stop flag between steps and ends the run as SIGTERM does: with a checkpoint."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._signalled = False

    def on_train_batch_end(self, *_: Any) -> None:
        """Before ``LastCheckpoint``, which acts on the signal."""
        # A second signal would end the run without a checkpoint.
        if not self._signalled and self._control.stop_requested():
            self._signalled = True
            signal.raise_signal(signal.SIGTERM)

    def on_validation_batch_end(self, *_: Any) -> None:
        """Validation may take long."""
        self.on_train_batch_end()


class ReportEpochs(Checkpoint):
    """Reports each epoch after its checkpoint was written, and ends a run that is pruned.

    A ``Checkpoint`` callback, because Lightning runs those last.

    Args:
        control: The connection.
        folder: The run folder, in which a pruned run is marked.
    """

    def __init__(self, control: Control, folder: Path) -> None:
        self._control = control
        self._folder = folder

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports where the run begins or resumes."""
        self._control.report(Epoch(trainer.current_epoch, trainer.global_step, float("nan"), started=True))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the score; a pruned run ends as if this epoch were its last."""
        # Lightning keeps the accuracy of the last validation, which may be some epochs ago.
        assert isinstance(pl_module, ImageClassifier)
        accuracy = float(trainer.callback_metrics["val_accuracy"]) if pl_module.validated else float("nan")
        number = trainer.current_epoch + 1
        if not self._control.report(Epoch(number, trainer.global_step, accuracy)) and number != trainer.max_epochs:
            (self._folder / PRUNED).touch()
            trainer.should_stop = True
