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

from regularization import resume, weight_decay
from regularization.mistakes import Mistake, nearest
from regularization.penalties import Penalty
from regularization.regularizer import Regularizer
from regularization.schedules import StrengthSchedule
from regularization.weight_decay import Decay

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
        penalties: Added to the loss, by names of one's own; several configs' penalties are combined.
        decay: What the optimizer's weight decay acts on: ``all`` parameters, or ``weights`` without biases and norms.
        decay_schedule: λ's course over the training, for the optimizer's weight decay; null keeps it constant.
        timescale_epochs: τ, the epochs after which weights are forgotten to 1/e; sets the optimizer's λ from it.
        label_smoothing: Share of the target that is spread over all classes in training (arXiv:1512.00567).
        mixing: Mixes the images and labels of a training batch: torchvision's ``v2.MixUp`` or ``v2.CutMix``.
        memory_format: How images and kernels lie in memory; channels_last is the faster one for convolutions.

    Raises:
        Mistake: When a value can't be, a negative λ for instance, or a penalty's pattern matches nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.01, weight_decay=1e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
        penalties: dict[str, Penalty | None] = {},  # noqa: B006 - never changed
        decay: Decay = "all",
        decay_schedule: StrengthSchedule | None = None,
        timescale_epochs: float | None = None,
        label_smoothing: float = 0.0,
        mixing: nn.Module | None = None,
        memory_format: Literal["channels_last", "contiguous"] = "channels_last",
    ) -> None:
        super().__init__()
        self._memory_format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.network = network.to(memory_format=self._memory_format)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._decay = decay
        self._decay_schedule = decay_schedule
        self._timescale_epochs = timescale_epochs
        self._label_smoothing = label_smoothing
        self._mixing = mixing
        _check_values(timescale_epochs, label_smoothing)
        self.regularizer = Regularizer(self.network, penalties)
        self._peak_lr = float("nan")
        self._end = float("inf")
        self._then: resume.Settings | None = None
        self.config: dict[str, Any] = {}  # What the command line was asked for; it travels in the checkpoint.
        self.train_scores = Scores()
        self.val_scores = Scores()
        self.test_scores = Scores()
        self.settings()  # So that a value that can't be is refused now, not after minutes of preparation.

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of the preprocessed ``images``, float ``(B, 3, H, W)``, in the precision of the weights."""
        logits: Tensor = self.network(images.to(self.dtype, memory_format=self._memory_format))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The batch's mean cross-entropy, with label smoothing and mixing where asked, a scalar."""
        images, labels = batch
        images, targets = (images, labels) if self._mixing is None else self._mixing(images, labels)
        logits = self(images)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self._label_smoothing)
        self.train_scores.update(loss.detach(), logits.detach(), labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds the batch to the validation metrics."""
        self._evaluate(self.val_scores, *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds the batch to the test metrics."""
        self._evaluate(self.test_scores, *batch)

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics, means taken while the weights were changing; steps a plateau scheduler."""
        self._log_epoch("train", self.train_scores)
        self.log_dict({f"penalty/{name}": value for name, value in self.regularizer.values(*self._course()).items()})
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
        """The optimizer, with the regularizer at its heels, and the scheduler with how often it steps."""
        self._end = float(self.trainer.estimated_stepping_batches)
        self._peak_lr = self._highest_lr()
        optimizer, scheduler = self._build(self._total_steps())
        self._now = resume.settings(optimizer, scheduler)
        self.regularizer.start()
        # A hook of the optimizer runs after its real steps only: not while gradients are accumulated, nor when a
        # gradient scaler skips a step.
        optimizer.register_step_post_hook(self._after_step)
        if scheduler is None:
            return optimizer
        config = LRSchedulerConfigType(scheduler=scheduler, interval=self._interval(scheduler))
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = getattr(scheduler, "monitor", "val_loss")
        return {"optimizer": optimizer, "lr_scheduler": config}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Once before every real step, when the gradients are unscaled: clips them, then lets λ act."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        course = self._course()
        if self._decay_schedule is not None:
            for group, asked in zip(optimizer.param_groups, self._now["groups"], strict=True):
                group["weight_decay"] = asked["weight_decay"] * self._decay_schedule.factor(*course)
        self.regularizer.add_gradients(*course)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the whole config, and what it asked of the optimizer, to tell on resuming what was changed since."""
        checkpoint["config"] = self.config
        checkpoint["settings"] = self._now
        checkpoint["regularizer"] = self.regularizer.state_dict()

    def settings(self) -> resume.Settings:
        """What the config asks of the optimizer, for a check before training."""
        return resume.settings(*self._build(total_steps=1000))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers the settings that the checkpoint's run was started with."""
        self._then = checkpoint.get("settings")
        self.regularizer.load_state_dict(checkpoint.get("regularizer", {}))

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

    def _evaluate(self, scores: "Scores", images: Tensor, labels: Tensor) -> None:
        logits = self(images)
        scores.update(functional.cross_entropy(logits, labels), logits, labels)

    def _log_epoch(self, stage: str, scores: "Scores") -> None:
        self.log_dict({f"{stage}_{name}": value for name, value in scores.compute().items()})

    def _watched(self, name: str) -> Tensor:
        metrics = self.trainer.callback_metrics
        if name not in metrics:
            raise Mistake(f"the scheduler's monitor {name} is no metric{nearest(name, metrics)}")
        return metrics[name]

    def _build(self, total_steps: int) -> tuple[Optimizer, resume.Scheduler | None]:
        try:
            optimizer = self._optimizer(weight_decay.parameter_groups(self.network, self._decay))
            self._set_timescale(optimizer)
            if self._lr_scheduler is None:
                return optimizer, None
            lengths = dict.fromkeys(_open_lengths(self._lr_scheduler), total_steps)
            return optimizer, self._lr_scheduler(optimizer, **lengths)
        except (ValueError, TypeError) as error:
            raise Mistake(f"the optimizer or its scheduler can't be made: {error}") from error

    def _set_timescale(self, optimizer: Optimizer) -> None:
        """λ from τ, at the highest learning rate of the schedule."""
        if self._timescale_epochs is None:
            return
        steps = self._timescale_epochs * self._steps_per_epoch()
        for place, group in enumerate(optimizer.param_groups):
            strength = weight_decay.strength_for(steps, optimizer, group, self._peak_lr)
            if strength is None:
                raise Mistake(f"timescale_epochs has no formula for {type(optimizer).__name__}: give its weight_decay")
            group["weight_decay"] = strength if place == 0 else 0.0

    def _highest_lr(self) -> float:
        """The highest learning rate of the schedule, found by following it from start to end."""
        self._peak_lr = 1.0  # only for the timescale, whose λ does not matter here
        total = self._total_steps()
        optimizer, scheduler = self._build(total)
        if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
            return float(optimizer.param_groups[0]["lr"])
        length = total if self._interval(scheduler) == "step" else int(self.trainer.max_epochs or 1)
        return max(resume.follow(scheduler, length - 1))

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        # A fused optimizer is called, with this mark, also when its gradients are not finite; it does nothing then.
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is None or not overflow.item():
            self.regularizer.take_proximal_steps(optimizer, *self._course())

    def _course(self) -> tuple[float, float]:
        """(time, learning rate's share of its highest), what λ's schedules depend on."""
        return min(1.0, self.trainer.global_step / self._end), float(
            self.trainer.optimizers[0].param_groups[0]["lr"]
        ) / self._peak_lr

    def _total_steps(self) -> int:
        total = self.trainer.estimated_stepping_batches
        if total == float("inf") and self._lr_scheduler is not None:
            raise Mistake("the scheduler needs to know the end: give --trainer.max_epochs or --trainer.max_steps")
        return max(1, int(total)) if total != float("inf") else 1

    def _steps_per_epoch(self) -> float:
        if self._trainer is None:
            return 1.0  # checked before there is a trainer: any length will do
        return self._total_steps() / max(1, self.trainer.max_epochs or 1)

    def _interval(self, scheduler: resume.Scheduler) -> str:
        counts_steps = isinstance(scheduler, OneCycleLR | CyclicLR) or hasattr(scheduler, "total_steps")
        assert self._lr_scheduler is not None
        return "step" if counts_steps or _open_lengths(self._lr_scheduler) else "epoch"


def _check_values(timescale_epochs: float | None, label_smoothing: float) -> None:
    if timescale_epochs is not None and not timescale_epochs > 0:
        raise Mistake(f"--model.timescale_epochs must be above 0, not {timescale_epochs}")
    if not 0 <= label_smoothing <= 1:
        raise Mistake(f"--model.label_smoothing must lie in 0 to 1, not {label_smoothing}")


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
