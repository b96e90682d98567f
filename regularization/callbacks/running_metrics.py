"""The running loss: how training goes within an epoch, for the bar and the loggers."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.models.classifier import ImageClassifier


class RunningMetrics(Callback):
    """Every ``log_every_n_steps``: means of loss and accuracy over the images trained on since the last time.

    Loggers get ``running/train_loss`` and ``running/train_accuracy``. They start anew with each epoch. Within one,
    nothing else is fetched from the device but whether it diverged.
    """

    def __init__(self) -> None:
        self.means: dict[str, float] = {}
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the steps from here on."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Fetches and logs them after every so many optimizer steps."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        previous, self._step = self._step, step
        # A step may take several batches, of which only the last one makes it.
        if step == previous or not every or step % every:
            return
        assert isinstance(pl_module, ImageClassifier)
        means = pl_module.train_metrics.running_means(trainer)
        self.means = {f"train_{name}": value for name, value in means.items()}
        for logger in trainer.loggers:
            # Lightning counts the steps of its own metrics from 0.
            logger.log_metrics({f"running/{name}": value for name, value in self.means.items()}, step - 1)
