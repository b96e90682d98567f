"""Weight averaging as a kind of regularization: ``EMA``, ``SWA``, ``LAWA`` and ``Lookahead``."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, WeightAveraging
from torch import Tensor

from regularization.errors import UserError
from regularization.models.classifier import ImageClassifier
from regularization.optim.sharpness import BATCH_NORMS
from regularization.runs.checkpoint_io import OUTDATED


class _ValidatedAverage(WeightAveraging):
    """Validates, tests and saves an average of the weights once there is one.

    Lightning's callback uses its average from the beginning, when it still equals the initial weights; this class uses
    the average only after its first update.
    """

    _swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Creates the average; refuses one of 16 bits, in which its small updates would be lost to rounding."""
        if trainer.precision in ("bf16-true", "16-true"):
            raise UserError(f"{type(self).__name__} needs weights in 32 bits: use --trainer.precision bf16-mixed")
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the weights of the model and the average."""
        if self._has_average():
            super().on_validation_epoch_start(trainer, pl_module)
            self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the weights back."""
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)
            self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swaps the weights back after an interrupted validation, so that a checkpoint can be written."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies the average into the model."""
        if self._has_average():
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the average as the weights of the model, and the current weights under a separate key."""
        if self._has_average():
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _has_average(self) -> bool:
        return bool(self.state_dict()["latest_update_step"])


class EMA(_ValidatedAverage, EMAWeightAveraging):
    """Validates, tests and saves an exponential moving average a of the weights w, a ← decay·a + (1−decay)·w per step.

    Polyak and Juditsky 1992 (SIAM J. Control 30).

    Args:
        decay: How much of the average is kept per step.
        start: The optimizer step, counted from 0, at which averaging starts.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        super().__init__(decay=decay, update_starting_at_step=start)


class _Average(_ValidatedAverage):
    """An average of the parameters without the buffers; the batch-norm statistics are recomputed for it.

    The statistics are those of the network with the averaged weights on a fixed, unaugmented part of the training
    images. They are computed before each validation, and at the end of epochs without one.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(use_buffers=False, **kwargs)
        self._steps = self._steps_per_epoch = 0
        self._updated = False  # whether the average has changed since the statistics were computed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds the length of the training."""
        assert isinstance(pl_module, ImageClassifier)
        self._steps, self._steps_per_epoch = _length(self, pl_module), pl_module.optimization.steps_per_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the weights after the step ``step_idx`` are averaged."""
        updated = step_idx is not None and self.includes(step_idx + 1)
        self._updated |= updated
        return updated

    def state_dict(self) -> dict[str, Any]:
        """Adds whether the statistics of batch norm are out of date: a run may be stopped before they are computed."""
        return super().state_dict() | {OUTDATED: self._updated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state."""
        super().load_state_dict(state_dict)
        self._updated = state_dict.get(OUTDATED, False)

    @abstractmethod
    def includes(self, step: int) -> bool:
        """Whether the weights after the given number of steps are averaged."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the weights of the model and the average, and computes the batch-norm statistics of the average."""
        super().on_validation_epoch_start(trainer, pl_module)
        if self._swapped and self._updated:
            _compute_statistics(trainer, pl_module)
            self._updated = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the statistics of batch norm in an epoch without validation."""
        if self._updated:
            self.on_validation_epoch_start(trainer, pl_module)
            self.on_validation_epoch_end(trainer, pl_module)


class SWA(_Average):
    """Validates, tests and saves the mean of the weights after each step of the last part of the training.

    Izmailov et al. 2018 (arXiv:1803.05407) average once per epoch at a high learning rate. The lower the learning rate
    is at the end, the smaller the effect of averaging.

    Args:
        start: The fraction of the training after which averaging starts.

    Raises:
        UserError: If ``start`` is not in [0, 1).
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise UserError(f"SWA: start must be at least 0 and below 1, not {start}")
        super().__init__()
        self._start = start

    def includes(self, step: int) -> bool:
        """Whether the weights after the given number of steps are averaged."""
        return step > self._start * self._steps


class LAWA(_Average):
    """Validates, tests and saves the mean of the weights at the ends of the last epochs: latest weight averaging.

    Kaddour 2022 (arXiv:2209.14981).

    Args:
        epochs: Number of epochs whose weights are averaged; these weights are kept in memory and in checkpoints.

    Raises:
        UserError: If ``epochs`` is below 2.
    """

    def __init__(self, epochs: int = 5) -> None:
        if epochs < 2:
            raise UserError(f"LAWA: epochs must be at least 2, not {epochs}")
        super().__init__(multi_avg_fn=self._average)
        self._epochs = epochs
        self._latest: dict[str, list[list[Tensor]]] = {}  # by dtype, because multi_avg_fn is called once per dtype

    def includes(self, step: int) -> bool:
        """Whether the weights after the given number of steps are averaged."""
        return step % self._steps_per_epoch == 0 or step == self._steps

    def state_dict(self) -> dict[str, Any]:
        """Adds the weights that are averaged."""
        return super().state_dict() | {"latest": self._latest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state."""
        super().load_state_dict(state_dict)
        self._latest = state_dict["latest"]

    def _average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], _: Any) -> None:
        # At the first call, ``averages`` holds the weights of the first update, which torch has copied there.
        first = [tensor.clone() for tensor in averages]
        latest = self._latest.setdefault(str(averages[0].dtype), [first])
        latest.append([w.clone().to(average) for w, average in zip(weights, averages, strict=True)])
        del latest[: -self._epochs]
        for average, *tensors in zip(averages, *latest, strict=True):
            average.copy_(torch.stack([tensor.to(average) for tensor in tensors]).mean(dim=0))


class Lookahead(Callback):
    """Sets s ← β·s + (1 − β)·w and w ← s every few steps: training continues from a slow average s of the weights w.

    Zhang et al. 2019 (arXiv:1907.08610). As in Jordan 2024 (arXiv:2404.00498), β = decay^every · t³ rises with the
    fraction t of the training that is done: at first s follows w, at the end it averages out the noise of the last
    steps. The statistics of batch norm are averaged like the weights. The momentum of the optimizer is not changed, nor
    are weights that are exactly 0.

    Args:
        decay: How much of the average is kept per step at the end of the training.
        every: Optimizer steps between two averages.

    Raises:
        UserError: When ``decay`` is not in [0, 1) or ``every`` is less than 1.
    """

    def __init__(self, decay: float = 0.95, every: int = 5) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"Lookahead: decay must be at least 0 and less than 1, not {decay}")
        if every < 1:
            raise UserError(f"Lookahead: every must be at least 1, not {every}")
        self._decay, self._every = decay, every
        self._slow: list[Tensor] = []
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts from the initial weights, or from the average in the checkpoint."""
        assert isinstance(pl_module, ImageClassifier)
        _length(self, pl_module)
        weights = _averaged_tensors(pl_module)
        initial = self._slow if trainer.global_step and self._slow else weights
        self._slow = [slow.clone().to(w) for slow, w in zip(initial, weights, strict=True)]
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Averages after every ``every`` steps, and after the last step."""
        assert isinstance(pl_module, ImageClassifier)
        previous, self._step = self._step, trainer.global_step
        last = pl_module.optimization.steps
        # With gradient accumulation, the optimizer takes a step only after the last batch.
        if self._step > previous and (self._step % self._every == 0 or self._step == last):
            t = min(1.0, self._step / last)
            for slow, w in zip(self._slow, _averaged_tensors(pl_module), strict=True):
                slow.lerp_(w, 1 - self._decay**self._every * t**3)
                # A weight that a proximal step has set to exactly 0 stays 0.
                slow.masked_fill_(w == 0, 0)
                w.copy_(slow)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"slow": self._slow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the average."""
        self._slow = state_dict["slow"]


def _length(callback: Callback, module: ImageClassifier) -> int:
    """The number of optimizer steps of the run.

    Raises:
        UserError: If the run has no end.
    """
    if module.optimization.steps == float("inf"):
        raise UserError(
            f"{type(callback).__name__} needs the length of the training: "
            "give --trainer.max_epochs or --trainer.max_steps"
        )
    return int(module.optimization.steps)


def _averaged_tensors(module: LightningModule) -> list[Tensor]:
    """The parameters and buffers of floating-point type, which leaves out the batch counters of batch norm."""
    assert isinstance(module, ImageClassifier)
    tensors = [*module.network.parameters(), *module.network.buffers()]
    return [tensor.detach() for tensor in tensors if torch.is_floating_point(tensor)]


@torch.no_grad()
def _compute_statistics(trainer: Trainer, module: LightningModule) -> None:
    """Sets the statistics of batch norm to their means over unaugmented training images, weighted by batch size."""
    assert isinstance(module, ImageClassifier)
    data, norms = module.image_data(), [norm for norm in module.network.modules() if isinstance(norm, BATCH_NORMS)]
    if not norms or data is None:
        return
    modes, momenta = {part: part.training for part in module.modules()}, [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
    preprocess = data.preprocess.to(module.device)
    count = 0
    for batch in data.clean_dataloader():
        if count and len(batch.images) == 1:
            continue  # one image may have no variance
        count += len(batch.images)
        for norm in norms:
            norm.momentum = len(batch.images) / count
        with trainer.precision_plugin.forward_context():
            module(preprocess(batch.images.to(module.device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))
    for part, training in modes.items():
        part.training = training
