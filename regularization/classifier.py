"""ImageClassifier, the LightningModule: a network, its loss and metrics, and weight-decay SGD."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from regularization import resume
from regularization.mistakes import Mistake, nearest

# Arguments by which schedulers ask for the length of the training; they are filled in when null or -1.
_LENGTHS = ("total_steps", "T_max")


class ImageClassifier(LightningModule):
    """Trains a network on ``(input (B, 3, H, W), labels (B,))`` with cross-entropy.

    Logs ``train_loss``, ``train_accuracy``, ``val_…`` and ``test_…`` once an epoch, each the mean over its images.

    Args:
        network: Maps the input to logits ``(B, num_classes)``. Any class path; its ``num_classes`` comes from the data.
        optimizer: Makes the optimizer from the parameters. Its ``weight_decay`` is λ, which adds λ·w to the gradient.
        lr_scheduler: Makes the learning-rate scheduler from the optimizer. A ``total_steps`` or ``T_max`` of null or
            -1 becomes the number of optimizer steps, and it then steps once per optimizer step, else once per epoch.
        memory_format: How images and kernels lie in memory; channels_last is the faster one for convolutions.

    Raises:
        Mistake: When the optimizer or the scheduler refuses its values, a negative λ for instance.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.01, weight_decay=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        memory_format: Literal["channels_last", "contiguous"] = "channels_last",
    ) -> None:
        super().__init__()
        self._memory_format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.network = network.to(memory_format=self._memory_format)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._then: resume.Settings | None = None
        self.config: dict[str, Any] = {}  # What the command line was asked for; it travels in the checkpoint.
        self.train_scores = Scores()
        self.val_scores = Scores()
        self.test_scores = Scores()
        self.settings()  # So that a value that can't be is refused now, not after minutes of preparation.

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of the preprocessed ``images``, float ``(B, 3, H, W)``."""
        logits: Tensor = self.network(images.contiguous(memory_format=self._memory_format))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean cross-entropy of the batch, a scalar."""
        return self._score(self.train_scores, *batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds the batch to the validation metrics."""
        self._score(self.val_scores, *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds the batch to the test metrics."""
        self._score(self.test_scores, *batch)

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics, means taken while the weights were changing; steps a plateau scheduler."""
        self._log_epoch("train", self.train_scores)
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                config.scheduler.step(self._watched(str(config.monitor)))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Lightning steps a plateau scheduler only after the epoch's checkpoint: resumed, it would miss that step.

        So ours is stepped by ``on_train_epoch_end``.
        """
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_epoch("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_epoch("test", self.test_scores)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the scheduler with how often it steps."""
        optimizer, scheduler = self._build(self._total_steps())
        self._now = resume.settings(optimizer, scheduler)
        if scheduler is None:
            return optimizer
        config = LRSchedulerConfigType(scheduler=scheduler, interval=self._interval(scheduler))
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = getattr(scheduler, "monitor", "val_loss")
        return {"optimizer": optimizer, "lr_scheduler": config}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the whole config, and what it asked of the optimizer, to tell on resuming what was changed since."""
        checkpoint["config"] = self.config
        checkpoint["settings"] = self._now

    def settings(self) -> resume.Settings:
        """What the config asks of the optimizer, for a check before training."""
        return resume.settings(*self._build(total_steps=1000))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers the settings that the checkpoint's run was started with."""
        self._then = checkpoint.get("settings")

    def on_train_start(self) -> None:
        """After a restore: what the config says now wins over what the checkpoint brought back."""
        if self._then is None or self._then == self._now:
            return
        optimizer = self.trainer.optimizers[0]
        configs = self.trainer.lr_scheduler_configs
        reached = self.trainer.current_epoch
        if configs and configs[0].interval == "step":
            reached = self.trainer.global_step
        scheduler = configs[0].scheduler if configs else None
        resume.reconcile(optimizer, scheduler, self._then, self._build(self._total_steps()), reached)

    def _score(self, scores: "Scores", images: Tensor, labels: Tensor) -> Tensor:
        logits = self(images)
        loss = functional.cross_entropy(logits, labels)
        scores.update(loss.detach(), logits.detach(), labels)
        return loss

    def _log_epoch(self, stage: str, scores: "Scores") -> None:
        self.log_dict({f"{stage}_{name}": value for name, value in scores.compute().items()})

    def _watched(self, name: str) -> Tensor:
        metrics = self.trainer.callback_metrics
        if name not in metrics:
            raise Mistake(f"the scheduler's monitor {name} is no metric{nearest(name, metrics)}")
        return metrics[name]

    def _build(self, total_steps: int) -> tuple[Optimizer, resume.Scheduler | None]:
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        try:
            optimizer = self._optimizer(parameters)
            if self._lr_scheduler is None:
                return optimizer, None
            lengths = dict.fromkeys(_open_lengths(self._lr_scheduler), total_steps)
            return optimizer, self._lr_scheduler(optimizer, **lengths)
        except (ValueError, TypeError) as error:
            raise Mistake(f"the optimizer or its scheduler can't be made: {error}") from error

    def _total_steps(self) -> int:
        return max(1, int(self.trainer.estimated_stepping_batches)) if self._lr_scheduler is not None else 1

    def _interval(self, scheduler: resume.Scheduler) -> str:
        counts_steps = isinstance(scheduler, OneCycleLR | CyclicLR) or hasattr(scheduler, "total_steps")
        assert self._lr_scheduler is not None
        return "step" if counts_steps or _open_lengths(self._lr_scheduler) else "epoch"


class Scores(nn.Module):
    """Loss and accuracy of an epoch: sums that stay on the device, so that no step waits for them."""

    def __init__(self) -> None:
        super().__init__()
        # "disable": looking for NaN would make the host wait for the device at every step. In torchmetrics 1.9 it
        # also switches weights off, so a batch's loss is entered once for each of its images.
        self.loss = MeanMetric(nan_strategy="disable")
        self.accuracy = MulticlassAccuracy(average="micro", validate_args=False)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, logits ``(B, C)`` and labels ``(B,)``."""
        self.loss.update(loss.expand(len(labels)))
        self.accuracy.update(logits, labels)

    def compute(self) -> dict[str, Tensor]:
        """The means over all images since the last call, which starts anew."""
        means = {"loss": self.loss.compute(), "accuracy": self.accuracy.compute()}
        self.loss.reset()
        self.accuracy.reset()
        return means


def _open_lengths(make_scheduler: Callable[..., Any]) -> list[str]:
    """Which of the scheduler's arguments wait for the number of optimizer steps."""
    given = make_scheduler.keywords if isinstance(make_scheduler, partial) else {}
    names = _parameter_names(make_scheduler)
    return [name for name in _LENGTHS if name in names and given.get(name) in (None, -1)]


def _parameter_names(make_scheduler: Callable[..., Any]) -> Iterable[str]:
    # LightningCLI hands over a partial of its own instantiator, with the scheduler's class among the arguments.
    parts = (make_scheduler.func, *make_scheduler.args) if isinstance(make_scheduler, partial) else (make_scheduler,)
    return [name for part in parts if callable(part) for name in inspect.signature(part).parameters]
