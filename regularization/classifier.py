"""ImageClassifier, the LightningModule: a network, its loss and metrics, and weight-decay SGD."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from regularization import resume
from regularization.mistakes import Mistake

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
        self.train_metrics = _metrics("train")
        self.val_metrics = _metrics("val")
        self.test_metrics = _metrics("test")
        self._build(total_steps=1000)  # So that a value that can't be is refused now, not after minutes of preparation.

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of the preprocessed ``images``, float ``(B, 3, H, W)``."""
        logits: Tensor = self.network(images.contiguous(memory_format=self._memory_format))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The mean cross-entropy of the batch, a scalar."""
        return self._score(self.train_metrics, *batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds the batch to the validation metrics."""
        self._score(self.val_metrics, *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds the batch to the test metrics."""
        self._score(self.test_metrics, *batch)

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics: means over the epoch, taken while the weights were changing."""
        self._log_epoch(self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self._log_epoch(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_epoch(self.test_metrics)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the scheduler with how often it steps."""
        optimizer, scheduler = self._build(self._total_steps())
        self._now = resume.settings(optimizer, scheduler)
        if scheduler is None:
            return optimizer
        config: dict[str, Any] = {"scheduler": scheduler, "interval": self._interval(scheduler)}
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = getattr(scheduler, "monitor", "val_loss")
        return {"optimizer": optimizer, "lr_scheduler": config}  # type: ignore[typeddict-item]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the whole config, and what it asked of the optimizer, to tell on resuming what was changed since."""
        checkpoint["config"] = self.config
        checkpoint["settings"] = self._now

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers the settings that the checkpoint's run was started with."""
        self._then = checkpoint.get("settings")

    def on_train_start(self) -> None:
        """After a restore: what the config says now wins over what the checkpoint brought back."""
        if self._then is None or self._then == self._now:
            return
        resume.check_continues(self._then, self._now)
        optimizer = self.trainer.optimizers[0]
        configs = self.trainer.lr_scheduler_configs
        reached = self.trainer.current_epoch
        if configs and configs[0].interval == "step":
            reached = self.trainer.global_step
        scheduler = configs[0].scheduler if configs else None
        resume.reconcile(optimizer, scheduler, self._then, self._build(self._total_steps()), reached)  # type: ignore[arg-type]

    def _score(self, metrics: MetricCollection, images: Tensor, labels: Tensor) -> Tensor:
        logits = self(images)
        loss = functional.cross_entropy(logits, labels)
        with torch.no_grad():
            metrics.loss.update(loss, weight=len(labels))
            metrics.accuracy.update(logits, labels)
        return loss

    def _log_epoch(self, metrics: MetricCollection) -> None:
        self.log_dict(metrics.compute())
        metrics.reset()

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


def _metrics(stage: str) -> MetricCollection:
    # nan_strategy="disable": looking for NaN would make the host wait for the device at every step.
    metrics = {
        "loss": MeanMetric(nan_strategy="disable"),
        "accuracy": MulticlassAccuracy(average="micro", validate_args=False),
    }
    return MetricCollection(metrics, prefix=f"{stage}_", compute_groups=False)  # type: ignore[arg-type]


def _open_lengths(make_scheduler: Callable[..., Any]) -> list[str]:
    """Which of the scheduler's arguments wait for the number of optimizer steps."""
    given = make_scheduler.keywords if isinstance(make_scheduler, partial) else {}
    names = _parameter_names(make_scheduler)
    return [name for name in _LENGTHS if name in names and given.get(name) in (None, -1)]


def _parameter_names(make_scheduler: Callable[..., Any]) -> Iterable[str]:
    # LightningCLI hands over a partial of its own instantiator, with the scheduler's class among the arguments.
    parts = (make_scheduler.func, *make_scheduler.args) if isinstance(make_scheduler, partial) else (make_scheduler,)
    return [name for part in parts if callable(part) for name in inspect.signature(part).parameters]
