"""Training metrics within an epoch, for the progress bar and the loggers."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.models.classifier import ImageClassifier


class RunningMetrics(Callback):
    """Logs the mean loss and accuracy over the images since the last time, every ``log_every_n_steps`` steps.

    Loggers get them as ``running/train_loss`` and ``running/train_accuracy``. The means start anew in each epoch.
    Apart from the check for values that are not finite, nothing else makes a step wait for the device.

    Attributes:
        means: The newest means, by name.
    """

    def __init__(self) -> None:
        self.means: dict[str, float] = {}
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step that training starts from."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Computes and logs the means, if the batch has ended a step at which they are due."""
        step, interval = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        previous, self._step = self._step, step
        # With gradient accumulation, the optimizer takes a step only after the last batch.
        if step == previous or not interval or step % interval:
            return
        assert isinstance(pl_module, ImageClassifier)
        means = pl_module.train_metrics.running_means(trainer)
        self.means = {f"train_{name}": value for name, value in means.items()}
        for logger in trainer.loggers:
            # Lightning counts the steps of its own metrics from 0.
            logger.log_metrics({f"running/{name}": value for name, value in self.means.items()}, step - 1)
