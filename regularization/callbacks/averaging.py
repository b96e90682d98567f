"""Averages of the weights over the training, a kind of regularization: ``EMA`` and ``Lookahead``."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import Tensor

from regularization.errors import UserError
from regularization.models.classifier import ImageClassifier


class EMA(EMAWeightAveraging):
    """Validates, tests and saves an exponential moving average a of the weights w, a ← decay·a + (1−decay)·w per step.

    Polyak and Juditsky 1992 (SIAM J. Control 30). Lightning's callback uses its average from the beginning, when it
    still is the initial weights; this one uses the average only after its first update.

    Args:
        decay: How much of the average is kept per step.
        start: The optimizer step, counted from 0, at which averaging starts.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        super().__init__(decay=decay, update_starting_at_step=start)
        self._swapped = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the weights of the model and the average."""
        if self._has_average():
            super().on_validation_epoch_start(trainer, pl_module)
            self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps them back."""
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)
            self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swaps them back after an interrupted validation, so that a checkpoint can be written."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies the average into the model."""
        if self._has_average():
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the average as the weights of the model, and the current weights under a key of their own."""
        if self._has_average():
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _has_average(self) -> bool:
        return bool(self.state_dict()["latest_update_step"])


class Lookahead(Callback):
    """Every few steps s ← β·s + (1 − β)·w and w ← s: training continues from a slow average s of the weights w.

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
        if pl_module.optimization.steps == float("inf"):
            raise UserError(
                "Lookahead needs the length of the training: give --trainer.max_epochs or --trainer.max_steps"
            )
        weights = _averaged_tensors(pl_module)
        initial = self._slow if trainer.global_step and self._slow else weights
        self._slow = [slow.clone().to(w) for slow, w in zip(initial, weights, strict=True)]
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Averages after every ``every`` steps, and after the last step."""
        assert isinstance(pl_module, ImageClassifier)
        previous, self._step = self._step, trainer.global_step
        last = pl_module.optimization.steps
        # With gradient accumulation, only the last batch of a step takes it.
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


def _averaged_tensors(module: LightningModule) -> list[Tensor]:
    """The parameters and buffers of floating-point type, which leaves out the batch counters of batch norm."""
    assert isinstance(module, ImageClassifier)
    tensors = [*module.network.parameters(), *module.network.buffers()]
    return [tensor.detach() for tensor in tensors if torch.is_floating_point(tensor)]
