"""ImageClassifier, the LightningModule that is trained: a network with its loss and metrics."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from regularization.data.augment import mix
from regularization.data.sampling import Batch
from regularization.errors import UserError
from regularization.models.metrics import EpochMetrics
from regularization.models.pretrained import load_weights
from regularization.models.regularized_module import RegularizedModule
from regularization.optim.penalties import Penalty
from regularization.optim.schedules import StrengthSchedule
from regularization.optim.weight_decay import Decay

MemoryFormat = Literal["channels_last", "contiguous"]


class ImageClassifier(RegularizedModule):
    """Trains a network on ``(images (B, 3, H, W), labels (B,))`` with cross-entropy.

    Logs ``train_loss``, ``train_accuracy``, ``val_…`` and ``test_…`` once per epoch, each as a mean over images.

    Args:
        network: Maps images to logits ``(B, num_classes)``. Any class path; its ``num_classes`` comes from the data.
        optimizer: Makes the optimizer from the parameters. Its ``weight_decay`` is λ, which adds λ·w to the gradient.
        lr_scheduler: Makes the learning-rate scheduler from the optimizer. If its ``total_steps`` or ``T_max`` is null
            or -1, the number of optimizer steps is filled in, and it steps once per optimizer step; otherwise it steps
            once per epoch.
        penalties: Penalties that are added to the loss, under names you choose. Those of several configs are combined;
            null removes one.
        decay: What weight decay acts on: ``all``; ``weights``, without biases and norm layers' scales; or a list of
            names such as ``["*.weight", "!*norm*"]``.
        decay_schedule: Schedule of λ for the optimizer's weight decay; null keeps λ constant.
        timescale_epochs: The timescale τ: the number of epochs after which weights have decayed to 1/e. Sets λ.
        label_smoothing: Fraction of each training target that is spread evenly over all classes (arXiv:1512.00567).
        mixing: Mixes the images and labels of a batch: torchvision's ``v2.MixUp`` or ``v2.CutMix``.
        memory_format: Memory layout of images and kernels. channels_last is faster for convolutions; it is used if all
            convolutions have at least 16 filters.
        weights: File with the weights to start from, for instance from torchvision or timm. The last layer may have
            another number of classes.
        compile: Whether PyTorch compiles the network. It takes a minute and pays off on a GPU.

    Raises:
        UserError: If a value is invalid, for instance a negative λ, or the pattern of a penalty matches no parameter.
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
        memory_format: MemoryFormat = "channels_last",
        weights: Path | None = None,
        compile: bool = False,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"--model.label_smoothing must be between 0 and 1, not {label_smoothing}")
        if weights is not None:
            load_weights(network, weights)
        layout = _memory_layout(network, memory_format)
        network = network.to(memory_format=layout)
        super().__init__(network, optimizer, lr_scheduler, penalties, decay, decay_schedule, timescale_epochs)
        self._memory_layout = layout
        self._label_smoothing = label_smoothing
        self._mixing = mixing
        self._compiled = compile  # an attribute named compile would hide nn.Module.compile
        self._pretrained = weights is not None
        self.config: dict[str, Any] = {}  # the config of the run, for its checkpoints
        self.train_metrics = EpochMetrics()
        self.penalty_metrics = {name: EpochMetrics() for name in self.regularizer.functions}  # λ·R as their loss
        self.val_metrics = EpochMetrics(calibration=True)
        self.test_metrics = EpochMetrics(calibration=True)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of preprocessed ``images``, float ``(B, 3, H, W)``."""
        logits: Tensor = self.network(images.to(self.dtype, memory_format=self._memory_layout))
        return logits

    def setup(self, stage: str) -> None:
        """Initializes a network that has a method ``init_from_data`` from training images, and compiles the network.

        The weights of a checkpoint are loaded after this.
        """
        data = self.image_data()
        init_from_data = getattr(self.network, "init_from_data", None)
        if stage == "fit" and not self._pretrained and callable(init_from_data) and data is not None:
            init_from_data(data.calibration_sample())
        if self._compiled:
            _check_compiler(self.trainer)
            if self.regularizer.input_gradients:
                raise UserError("a penalty on gradients by the images cannot be compiled: add --model.compile false")
            # In place, which keeps the names in checkpoints. Shapes are few: each one gets its own compiled code.
            self.network.compile(dynamic=False)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout, stochastic depth and mixing with (seed, epoch, step), as the order of images and crops are.

        So checkpoints need no random state.
        """
        if seed := os.environ.get("PL_GLOBAL_SEED"):
            # torch.manual_seed seeds every kind of device, which takes 75 µs per step.
            manual_seed = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
            # Each process has its own stream. The first one has that of a single process.
            rank = (self.global_rank,) if self.global_rank else ()
            manual_seed(mix(int(seed), self.current_epoch, batch_idx, 1, *rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of the batch, a scalar, with label smoothing, mixing and penalties if the config has them.

        With several processes, each has a part of the batch, and the mean of their results is that of the batch.
        """
        images, labels = batch.images, batch.labels
        images, targets = (images, labels) if self._mixing is None else self._mixing(images, labels)
        if self.regularizer.input_gradients:
            images = images.detach().requires_grad_()
        logits = self(images)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self._label_smoothing)
        counted = logits.detach()[: batch.counted], labels[: batch.counted]
        self.train_metrics.update(loss.detach(), *counted)
        if self.regularizer.functions:
            shown = batch._replace(images=images, labels=targets)
            for name, penalty in self.regularizer.losses(shown, logits, self.network, self.progress()).items():
                self.penalty_metrics[name].update(penalty.detach(), *counted)
                loss = loss + penalty
        return loss if batch.weight == 1 else loss * batch.weight

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds the batch to the validation metrics; returns its logits ``(B, num_classes)``."""
        return self.evaluate_batch(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Adds the batch to the test metrics; returns its logits ``(B, num_classes)``."""
        return self.evaluate_batch(batch, self.test_metrics)

    def evaluate_batch(self, batch: Batch, metrics: EpochMetrics) -> Tensor:
        """Adds the batch to ``metrics``; returns its logits ``(B, num_classes)``, none if the batch has weight 0."""
        logits: Tensor = self(batch.images)
        loss = functional.cross_entropy(logits, batch.labels)
        counted = logits[: batch.counted]
        # Also for weight 0: the metrics of all processes must have the same device and type.
        metrics.update(loss, counted, batch.labels[: batch.counted])
        return counted

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics, taken while the weights were changing; steps a plateau scheduler."""
        self._log_epoch("train", self.train_metrics)
        penalties = self.regularizer.values(*self.progress())
        penalties |= {name: metrics.compute(self.trainer)["loss"] for name, metrics in self.penalty_metrics.items()}
        self.log_dict({f"penalty/{name}": value for name, value in penalties.items()})
        self.step_plateau_schedulers()

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self.validated = True
        self._log_epoch("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self._log_epoch("test", self.test_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the config, what inference needs to know of the data, and the metrics of the current epoch."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["config"] = self.config
        if (data := self.image_data()) is not None:
            checkpoint["serving"] = data.inference_config()
        checkpoint["train_scores"] = self.train_metrics.state_dict(self.trainer)
        if self.penalty_metrics:
            states = {name: metrics.state_dict(self.trainer) for name, metrics in self.penalty_metrics.items()}
            checkpoint["penalty_scores"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the metrics of the current epoch."""
        super().on_load_checkpoint(checkpoint)
        if "parts" in (metrics := checkpoint["train_scores"]):  # early checkpoints of version 0.1.0 have none
            self.train_metrics.load_state_dict(metrics, self.trainer)
        for name, state in checkpoint.get("penalty_scores", {}).items():
            if name in self.penalty_metrics:
                self.penalty_metrics[name].load_state_dict(state, self.trainer)

    def _log_epoch(self, stage: str, metrics: EpochMetrics) -> None:
        self.log_dict({f"{stage}_{name}": value for name, value in metrics.compute(self.trainer).items()})


def _memory_layout(network: nn.Module, memory_format: MemoryFormat) -> torch.memory_format:
    # In channels_last and with several threads, the CPU kernels of PyTorch 2.14 write past the memory of convolutions
    # with fewer than 16 filters.
    narrow = any(isinstance(module, nn.Conv2d) and module.out_channels < 16 for module in network.modules())
    return torch.contiguous_format if memory_format == "contiguous" or narrow else torch.channels_last


def _check_compiler(trainer: Trainer) -> None:
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if trainer.strategy.root_device.type == "cpu" and sys.platform != "win32" and shutil.which(compiler) is None:
        raise UserError(
            f"--model.compile needs a C++ compiler on the CPU, and there is no {compiler}: install one, or leave it out"
        )
