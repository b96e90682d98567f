"""ImageClassifier, the LightningModule that is trained: a network with its loss and metrics."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms import v2

from regularization.data.augmentation.augment import mix
from regularization.data.sampling import Batch, as_batch
from regularization.errors import UserError
from regularization.models.checkpoint_arguments import arguments_in
from regularization.models.compilation import MemoryFormat, check_compiler, memory_layout
from regularization.models.metrics import EpochMetrics
from regularization.models.network_check import check_sizes
from regularization.models.outputs import Losses, criterion, split_output, with_auxiliary
from regularization.models.pretrained import load_weights
from regularization.models.regularized_module import RegularizedModule
from regularization.optim.penalties import Penalty
from regularization.optim.schedules import StrengthSchedule
from regularization.optim.sharpness import SAM
from regularization.optim.weight_decay import Decay
from regularization.runs import checkpoint_io


class ImageClassifier(RegularizedModule):
    """Trains a network on ``(images (B, 3, H, W), labels (B,))`` with cross-entropy.

    If the network returns logits of auxiliary classifiers too, each adds 0.3 of its loss in training.

    Logs ``train_loss``, ``train_accuracy``, ``val_…`` and ``test_…`` once per epoch, each as a mean over images.

    Args:
        network: Maps images to logits ``(B, num_classes)``. Any class path; its ``num_classes`` comes from the data.
        optimizer: Makes the optimizer from the parameters. Its ``weight_decay`` is λ, which adds λ·w to the gradient.
        lr_scheduler: Makes the learning-rate scheduler. It steps once per epoch; or once per optimizer step if its
            ``total_steps``, ``T_max`` or ``total_iters`` is null or -1, which becomes the number of these steps.
        penalties: Penalties that are added to the loss, under names you choose. Several configs are merged;
            null removes one.
        decay: What weight decay acts on: ``all``; ``weights``, without biases and norm layers' scales; or a list of
            names such as ``["*.weight", "!*norm*"]``.
        decay_schedule: Schedule of λ for the optimizer's weight decay; null keeps λ constant.
        timescale_epochs: The timescale τ: the number of epochs after which weights have decayed to 1/e. Sets λ.
        label_smoothing: Fraction of each training target that is spread evenly over all classes (arXiv:1512.00567).
        mixing: Mixes images and labels: ``v2.MixUp`` or ``v2.CutMix`` of torchvision; of several, a random one.
        sharpness: Takes the gradient at nearby weights with a higher loss.
        memory_format: Memory layout; contiguous if a convolution has fewer than 16 filters.
        weights: File with the weights to start from. The last layer may have another number of classes.
        compile: Whether PyTorch compiles the network. It takes a minute and pays off on a GPU.

    Attributes:
        loaded_weights: The result of loading ``weights``, or None.

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
        mixing: nn.Module | dict[str, nn.Module | None] | None = None,
        sharpness: SAM | None = None,
        memory_format: MemoryFormat = "channels_last",
        weights: Path | None = None,
        compile: bool = False,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise UserError(f"--model.label_smoothing must be between 0 and 1, not {label_smoothing}")
        loaded = None if weights is None else load_weights(network, weights)
        layout = memory_layout(network, memory_format)
        network = network.to(memory_format=layout)
        super().__init__(network, optimizer, lr_scheduler, penalties, decay, decay_schedule, timescale_epochs)
        self._memory_layout = layout
        self._label_smoothing = label_smoothing
        self._mixing = _random_choice(mixing)
        self._sharpness = sharpness
        self._compiled = compile  # an attribute named compile would hide nn.Module.compile
        self.loaded_weights = loaded
        self._num_classes: int | None = None  # set in setup, if the data define it
        self.config: dict[str, Any] = {}  # the config of the run, for its checkpoints
        self.train_metrics = EpochMetrics()
        self.penalty_metrics = {name: EpochMetrics() for name in self.regularizer.functions}  # with λ·R as the loss
        self.val_metrics = EpochMetrics(calibration=True)
        self.test_metrics = EpochMetrics(calibration=True)

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        trust_it: bool = False,
        **kwargs: Any,
    ) -> "ImageClassifier":
        """Loads the classifier of a run with its weights, for use with Lightning's Trainer in a script.

        To continue a run with its optimizer, give the file to ``Trainer.fit(ckpt_path=…)`` instead.

        Args:
            checkpoint_path: The file.
            map_location: The device of the result; by default the CPU.
            hparams_file: Not used: the config is in the checkpoint.
            strict: Whether all weights must be in the file, and no others; None means true.
            weights_only: Not used: only tensors and plain types are ever read.
            trust_it: Whether to import any class that the checkpoint names, not only those of this program, torch,
                torchvision and timm.
            kwargs: Arguments of the class in place of those in the config.

        Raises:
            UserError: If the checkpoint is damaged, names a class that is not trusted, or does not define its network.
        """
        path = Path(checkpoint_path)
        content = checkpoint_io.read(path)
        with torch.random.fork_rng(devices=[]):
            arguments = arguments_in(content["config"], cls, trust_it, kwargs)
            if "network" not in arguments:
                raise UserError(f"{path} does not say its network, as those of the command fit do: give network=…")
            model = cls(**arguments)
        model.load_state_dict(content["state_dict"], strict=strict is not False)
        model.config = content["config"]
        return model.to(map_location) if isinstance(map_location, str | torch.device) else model

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of preprocessed ``images``, float ``(B, 3, H, W)``."""
        logits, _ = self.logits(images)
        return logits

    def logits(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and a list of the logits of the auxiliary classifiers that the network has in training mode."""
        output = self.network(images.to(self.dtype, memory_format=self._memory_layout))
        return split_output(output, self._num_classes)

    def setup(self, stage: str) -> None:
        """Checks that the network fits the data, initializes it if it has a method ``init_from_data``, and compiles it.

        The weights of a checkpoint are loaded after this.
        """
        data = self.image_data()
        self._num_classes = getattr(data, "num_classes", None)
        if data is not None:
            check_sizes(self.network, data, training=stage == "fit")
        init_from_data = getattr(self.network, "init_from_data", None)
        if stage == "fit" and self.loaded_weights is None and callable(init_from_data) and data is not None:
            init_from_data(data.calibration_sample())
        if self._sharpness is not None and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise UserError("--model.sharpness cannot be combined with precision 16-mixed: use bf16-mixed")
        if self._compiled:
            check_compiler(self.trainer)
            if self.regularizer.input_gradients:
                raise UserError("a penalty on gradients by the images cannot be compiled: add --model.compile false")
            # In place, which keeps the names in checkpoints. There are few shapes, and each one is compiled separately.
            # By default, the compiler makes all convolutions channels_last, even those that ``memory_layout`` excludes.
            options = {"layout_optimization": False} if self._memory_layout == torch.contiguous_format else None
            self.network.compile(dynamic=False, options=options)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout, stochastic depth and mixing with (seed, epoch, step), like the order of images and the crops.

        Checkpoints therefore need no random state.
        """
        if seed := os.environ.get("PL_GLOBAL_SEED"):
            # torch.manual_seed seeds every kind of device, which takes 75 µs per step.
            manual_seed = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
            # Each process has its own random stream; that of the first process is the same as in a single-process run.
            rank = (self.global_rank,) if self.global_rank else ()
            manual_seed(mix(int(seed), self.current_epoch, batch_idx, 1, *rank))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Mean cross-entropy of the batch, a scalar, with label smoothing, mixing and penalties if the config has them.

        With several processes, each gets a part of the batch, and the mean of their results is that of the whole batch.
        """
        batch = as_batch(batch)
        labels = batch.labels
        if self._mixing is not None:
            images, targets = self._mixing(batch.images, labels)
            batch = batch._replace(images=images, labels=targets)
        if self.regularizer.input_gradients:
            batch = batch._replace(images=batch.images.detach().requires_grad_())
        devices = [self.device] if self.device.type == "cuda" else []
        # The second pass of sharpness-aware training uses the same random numbers as the first one.
        with torch.random.fork_rng(devices, enabled=self._sharpness is not None):
            losses = self._losses(batch)
        counted = losses.logits.detach()[: batch.counted], labels[: batch.counted]
        self.train_metrics.update(losses.criterion.detach(), *counted)
        for name, penalty in losses.penalties.items():
            self.penalty_metrics[name].update(penalty.detach(), *counted)
        loss = losses.total
        if self._sharpness is not None:
            mean = partial(self._mean, batch.weight)
            loss = self._sharpness.loss(self.network, loss, lambda: self._losses(batch).total, mean)
        return loss if batch.weight == 1 else loss * batch.weight

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Adds the batch to the validation metrics; returns its logits ``(B, num_classes)``."""
        return self.evaluate_batch(batch, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Adds the batch to the test metrics; returns its logits ``(B, num_classes)``."""
        return self.evaluate_batch(batch, self.test_metrics)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Probabilities of the classes, float32 ``(B, num_classes)``; the batch may hold images without labels."""
        batch = as_batch(batch)
        logits: Tensor = self(batch.images)
        return (logits if batch.weight else logits[:0]).float().softmax(dim=1)

    def evaluate_batch(self, batch: Any, metrics: EpochMetrics) -> Tensor:
        """Adds the batch to ``metrics``; returns its logits ``(B, num_classes)``, none if the batch has weight 0."""
        batch = as_batch(batch)
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
        """Adds the config, the properties of the data that inference needs, and the metrics of the current epoch."""
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

    def _losses(self, batch: Batch) -> Losses:
        logits, auxiliary = self.logits(batch.images)
        class_weights = None if (data := self.image_data()) is None else data.loss_weights
        loss = criterion(logits, batch.labels, self._label_smoothing, class_weights)
        penalties = {}
        if self.regularizer.functions:
            penalties = self.regularizer.losses(batch, logits, self.network, self.progress())
        total = sum(penalties.values(), with_auxiliary(loss, auxiliary, batch.labels))
        return Losses(logits, loss, penalties, total)

    def _mean(self, weight: float, gradient: Tensor) -> Tensor:
        """The gradient of the whole batch: the mean over processes of the gradient of their part times its weight."""
        mean: Tensor = self.trainer.strategy.reduce(gradient * weight, reduce_op="mean")
        return mean

    def _log_epoch(self, stage: str, metrics: EpochMetrics) -> None:
        self.log_dict({f"{stage}_{name}": value for name, value in metrics.compute(self.trainer).items()})


def _random_choice(mixing: nn.Module | dict[str, nn.Module | None] | None) -> nn.Module | None:
    """Combines several modules into one that applies a random one, by the generator that is seeded in each step."""
    if not isinstance(mixing, dict):
        return mixing
    chosen = [module for module in mixing.values() if module is not None]
    return v2.RandomChoice(chosen) if len(chosen) > 1 else next(iter(chosen), None)
