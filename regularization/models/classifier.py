"""ImageClassifier, the LightningModule: a network, its loss and metrics, and weight-decay SGD."""

import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from regularization.data.augment import mix
from regularization.data.datamodules import ImageData
from regularization.data.sampling import Batch
from regularization.errors import UserError, did_you_mean
from regularization.models.memory_format import has_narrow_convolutions
from regularization.models.metrics import EpochMetrics
from regularization.models.pretrained import load_weights
from regularization.optim import hyperparameters
from regularization.optim.applied import Regularizer
from regularization.optim.factory import OptimizerFactory
from regularization.optim.penalties import Penalty
from regularization.optim.schedules import StrengthSchedule
from regularization.optim.weight_decay import Decay
from regularization.runs import resume


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
        memory_format: How images and kernels lie in memory; channels_last is the faster one for convolutions, and
            taken where all have at least 16 filters.
        weights: A file of weights to begin with, torchvision's or timm's for instance; the last layer may be another.
        compile: Whether PyTorch compiles the network, which takes a minute at first and pays on a GPU.

    Raises:
        UserError: When a value can't be, a negative λ for instance, or a penalty's pattern matches nothing.
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
        weights: Path | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.new_tensors = load_weights(network, weights) if weights is not None else []
        wide = memory_format == "channels_last" and not has_narrow_convolutions(network)
        self._memory_format = torch.channels_last if wide else torch.contiguous_format
        self.network = network.to(memory_format=self._memory_format)
        self._label_smoothing = label_smoothing
        self._mixing = mixing
        self._compiled = compile  # an attribute called compile would hide nn.Module's
        self._fresh = weights is None
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"--model.label_smoothing must be between 0 and 1, not {label_smoothing}")
        self.regularizer = Regularizer(self.network, penalties)
        self.optimization = OptimizerFactory(
            self.network, optimizer, lr_scheduler, decay, decay_schedule, timescale_epochs
        )
        self._then: hyperparameters.Hyperparameters | None = None
        self.validated = False  # in the current epoch
        self.config: dict[str, Any] = {}  # What the command line was asked for; it travels in the checkpoint.
        self.train_metrics = EpochMetrics()
        self.val_metrics = EpochMetrics(calibration=True)
        self.test_metrics = EpochMetrics(calibration=True)

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes each hook that it enters, forty times a step: no need to ask what kind of thing that is."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of the preprocessed ``images``, float ``(B, 3, H, W)``."""
        logits: Tensor = self.network(images.to(self.dtype, memory_format=self._memory_format))
        return logits

    def setup(self, stage: str) -> None:
        """Shows a fresh network what it will be trained on, if it has a method ``init_from_data``; compiles the network.

        A checkpoint's weights are put back after this.
        """
        data = getattr(self.trainer, "datamodule", None)
        init_from_data = getattr(self.network, "init_from_data", None)
        if stage == "fit" and self._fresh and callable(init_from_data) and isinstance(data, ImageData):
            init_from_data(data.calibration_sample())
        if self._compiled:
            _check_compiler(self.trainer)
            # In place, so that names in checkpoints stay what they are. Few shapes occur: each gets code of its own.
            self.network.compile(dynamic=False)

    def on_train_epoch_start(self) -> None:
        """An epoch has no validation metrics until it was validated."""
        self.validated = False

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout, stochastic depth and mixing draw from a stream that is the batch's own, as order and crops do.

        So no random state has to travel in a checkpoint.
        """
        if seed := os.environ.get("PL_GLOBAL_SEED"):
            # torch.manual_seed visits every kind of device, which takes 75 µs a step.
            reseed = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
            # Each process drops and mixes on its own; the first one as if it were alone.
            others = (rank,) if (rank := self.global_rank) else ()
            reseed(mix(int(seed), self.current_epoch, batch_idx, 1, *others))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's mean cross-entropy, with label smoothing and mixing where asked, a scalar.

        Of several processes each has its part of the batch, and the mean of what they return is the batch's.
        """
        images, labels = batch.images, batch.labels
        images, targets = (images, labels) if self._mixing is None else self._mixing(images, labels)
        logits = self(images)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self._label_smoothing)
        self.train_metrics.update(loss.detach(), logits.detach()[: batch.counted], labels[: batch.counted])
        return loss if batch.weight == 1 else loss * batch.weight

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds the batch to the validation metrics, and returns its logits ``(B, num_classes)``."""
        return self.evaluate_batch(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds the batch to the test metrics, and returns its logits ``(B, num_classes)``."""
        return self.evaluate_batch(batch, self.test_metrics)

    def evaluate_batch(self, batch: Batch, scores: EpochMetrics) -> Tensor:
        """Adds the batch to ``scores``, and returns its logits ``(B, num_classes)``; none of a batch of weight 0."""
        logits: Tensor = self(batch.images)
        loss = functional.cross_entropy(logits, batch.labels)
        counted = logits[: batch.counted]
        # None, too: a process without images must have sums as the others have.
        scores.update(loss, counted, batch.labels[: batch.counted])
        return counted

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics, means taken while the weights were changing; steps a plateau scheduler."""
        self._log_epoch("train", self.train_metrics)
        self.log_dict({f"penalty/{name}": value for name, value in self.regularizer.values(*self._progress()).items()})
        for config in self.trainer.lr_scheduler_configs:
            stale = str(config.monitor).startswith("val_") and not self.validated
            if isinstance(config.scheduler, ReduceLROnPlateau) and not stale:
                config.scheduler.step(self._watched(str(config.monitor)))

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Lightning steps a plateau scheduler only after the epoch's checkpoint: resumed, it would miss that step.

        So ours is stepped by ``on_train_epoch_end``.
        """
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self.validated = True
        self._log_epoch("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_epoch("test", self.test_metrics)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with the regularizer at its heels, and the scheduler with how often it steps."""
        self._prepare_optimization()
        optimizer, scheduler = self.optimization.build()
        if getattr(self.trainer.precision_plugin, "scaler", None) and getattr(
            optimizer, "_step_supports_amp_scaling", False
        ):
            # Its gradients stay scaled until inside the step: nothing could be added to them, or measured.
            raise UserError(
                "a fused optimizer can't be combined with precision 16-mixed: use bf16-mixed, or leave fused out"
            )
        self.regularizer.start()
        # A hook of the optimizer runs after its real steps only: not while gradients are accumulated, nor when a
        # gradient scaler skips a step.
        optimizer.register_step_post_hook(self._after_step)
        if scheduler is None:
            return optimizer
        config = LRSchedulerConfigType(scheduler=scheduler, interval=self.optimization.interval(scheduler))
        if isinstance(scheduler, ReduceLROnPlateau):
            self._check_monitor(str(getattr(scheduler, "monitor", "val_loss")))
            config["monitor"] = getattr(scheduler, "monitor", "val_loss")
            config["strict"] = False  # it is ours to look for the metric, see on_train_epoch_end
        return {"optimizer": optimizer, "lr_scheduler": config}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Once before every real step, when the gradients are unscaled: clips them, then lets λ act."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        progress = self._progress()
        self.optimization.apply_decay_schedule(optimizer, progress)
        self.regularizer.add_gradients(*progress)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the whole config, and what it asked of the optimizer, to tell on resuming what was changed since."""
        checkpoint["config"] = self.config
        checkpoint["settings"] = self.optimization.hyperparameters
        if isinstance(data := getattr(self.trainer, "datamodule", None), ImageData):
            checkpoint["serving"] = data.inference_config()
        checkpoint["regularizer"] = self.regularizer.state_dict()
        checkpoint["train_scores"] = self.train_metrics.state_dict(self.trainer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remembers the settings that the checkpoint's run was started with."""
        self._then = checkpoint.get("settings")
        self.regularizer.load_state_dict(checkpoint.get("regularizer", {}))
        if "parts" in (scores := checkpoint["train_scores"]):  # those of version 0.1.0's beginnings had none
            self.train_metrics.load_state_dict(scores, self.trainer)

    def on_train_start(self) -> None:
        """After a restore: what the config says now wins over what the checkpoint brought back."""
        done = resume.batches_done(self.trainer, self._then is not None)
        if self._then is None or self._then == self.optimization.hyperparameters:
            return
        optimizer = self.trainer.optimizers[0]
        configs = self.trainer.lr_scheduler_configs
        reached = self.trainer.current_epoch
        if configs and configs[0].interval == "step":
            # As if the epochs so far had had as many steps as those to come.
            reached = reached * self.optimization.steps_per_epoch + done // self.trainer.accumulate_grad_batches
        scheduler = configs[0].scheduler if configs else None
        hyperparameters.apply_overrides(optimizer, scheduler, self._then, self.optimization.build(), reached)

    def _log_epoch(self, stage: str, scores: EpochMetrics) -> None:
        self.log_dict({f"{stage}_{name}": value for name, value in scores.compute(self.trainer).items()})

    def _check_monitor(self, name: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if name.startswith("val_") and isinstance(data, ImageData) and data.val_size is None:
            raise UserError(f"the scheduler watches {name}, but nothing is held out: --data.val_size is null")

    def _watched(self, name: str) -> Tensor:
        metrics = self.trainer.callback_metrics
        if name not in metrics:
            raise UserError(f"the scheduler's monitor {name} is no metric{did_you_mean(name, metrics)}")
        return metrics[name]

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self.regularizer.apply_prox(optimizer, *self._progress())

    def _prepare_optimization(self) -> None:
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        if not 0 < batches < float("inf"):
            raise UserError("there is nothing to train on: --trainer.limit_train_batches leaves no batch of an epoch")
        per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
        steps = float(self.trainer.estimated_stepping_batches)
        if steps == float("inf") and any(penalty.schedule for penalty in self.regularizer.penalties.values()):
            raise UserError(
                "a penalty's schedule needs to know the end: give --trainer.max_epochs or --trainer.max_steps"
            )
        self.optimization.prepare(steps, per_epoch)

    def _progress(self) -> tuple[float, float]:
        """(time, learning rate's share of its highest), what λ's schedules depend on."""
        return self.optimization.progress(self.trainer.global_step, self.trainer.optimizers[0])


def _check_compiler(trainer: Trainer) -> None:
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if trainer.strategy.root_device.type == "cpu" and sys.platform != "win32" and shutil.which(compiler) is None:
        raise UserError(f"--model.compile needs a C++ compiler on the CPU, and there is no {compiler}: leave it out")
