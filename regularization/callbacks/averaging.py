"""Averaged weights, as a kind of regularization."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from torch import Tensor

from regularization.errors import UserError
from regularization.models.classifier import ImageClassifier


class EMA(EMAWeightAveraging):
    """Validates, tests and saves an exponential moving average of the weights: a ← decay·a + (1 − decay)·w each step.

    Polyak and Juditsky 1992 (SIAM J. Control 30). Lightning's callback, kept from handing out its average before
    there is one: until then it holds the weights that training started from.

    Args:
        decay: How much of the average stays, each step.
        start: Optimizer step, counted from 0, with which averaging starts.
    """

    def __init__(self, decay: float = 0.999, start: int = 0) -> None:
        super().__init__(decay=decay, update_starting_at_step=start)
        self._swapped = False

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps the average in."""
        if self._has_average():
            super().on_validation_epoch_start(trainer, pl_module)
            self._swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swaps it out again."""
        if self._swapped:
            super().on_validation_epoch_end(trainer, pl_module)
            self._swapped = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Swaps it out of a validation that was left, so that a checkpoint can be written."""
        self.on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the average in the model."""
        if self._has_average():
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts the average where the weights are read from, and keeps the weights beside it."""
        if self._has_average():
            super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _has_average(self) -> bool:
        return bool(self.state_dict()["latest_update_step"])


class Lookahead(Callback):
    """Every few steps s ← β·s + (1 − β)·w and w ← s: training goes on from a slow average s of the weights w.

    Zhang et al. 2019 (arXiv:1907.08610). As in Jordan 2024 (arXiv:2404.00498), β rises with the share t of the training
    that is done, β = decay^every · t³: at first nothing is held back, and at the end the noise of the last steps is
    averaged away. Batch norm's statistics are averaged like the weights; the optimizer's momentum is left alone, and so
    is a weight of exactly 0.

    Args:
        decay: How much of the average stays at the end of the training, for each step.
        every: Optimizer steps from one average to the next.

    Raises:
        UserError: When ``decay`` lies outside of 0 to 1 or ``every`` is below 1.
    """

    def __init__(self, decay: float = 0.95, every: int = 5) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"Lookahead: decay must be at least 0 and below 1, not {decay}")
        if every < 1:
            raise UserError(f"Lookahead: every must be at least 1, not {every}")
        self._decay, self._every = decay, every
        self._slow: list[Tensor] = []
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins with the weights that training begins with; when continued, with what the checkpoint brought."""
        assert isinstance(pl_module, ImageClassifier)
        if pl_module.optimization.steps == float("inf"):
            raise UserError("Lookahead needs to know the end: give --trainer.max_epochs or --trainer.max_steps")
        weights = _averaged(pl_module)
        kept = self._slow if trainer.global_step and self._slow else weights
        self._slow = [slow.clone().to(w) for slow, w in zip(kept, weights, strict=True)]
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Averages after every so many steps, and after the last one."""
        assert isinstance(pl_module, ImageClassifier)
        before, self._step = self._step, trainer.global_step
        last = pl_module.optimization.steps
        # Of the batches of one step, only the last one makes it.
        if self._step > before and (self._step % self._every == 0 or self._step == last):
            share = min(1.0, self._step / last)
            for slow, w in zip(self._slow, _averaged(pl_module), strict=True):
                slow.lerp_(w, 1 - self._decay**self._every * share**3)
                # What a proximal step has made exactly 0 stays 0.
                slow.masked_fill_(w == 0, 0)
                w.copy_(slow)

    def state_dict(self) -> dict[str, Any]:
        """The average, which a continued run goes on with."""
        return {"slow": self._slow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back."""
        self._slow = state_dict["slow"]


def _averaged(module: LightningModule) -> list[Tensor]:
    """Weights and buffers, each once, that are numbers one can average; not batch norm's counts."""
    assert isinstance(module, ImageClassifier)
    found = [*module.network.parameters(), *module.network.buffers()]
    return [w.detach() for w in found if torch.is_floating_point(w)]
