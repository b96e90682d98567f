"""``val_logits.npz``: the logits of each validation image, to compare runs without training them again."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from regularization.runs.directory import LOGITS, atomic_write
from regularization.runs.distributed import gather_rows


class ValidationLogits(Callback):
    """Writes the latest validation's results: ``logits`` float16 ``(N, C)``, ``labels`` and ``index`` int64 ``(N,)``.

    ``index`` is the position in the whole training set, so that runs with the same split can be paired by image.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discards the batches of an interrupted validation."""
        self._batches.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Keeps the logits of the batch, on the device, and the index of its images."""
        self._batches.append((outputs.half(), batch.indices[: batch.counted]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file, before the checkpoint of the epoch: a checkpoint is never newer than its logits."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self._batches and data.val_set is not None:
            logits, index = gather_logits(self._batches, trainer)
            self._batches.clear()
            if trainer.is_global_zero:
                write_logits(self._folder / LOGITS, logits, data.val_set[0].labels[index], index)


def gather_logits(batches: list[tuple[Tensor, Tensor]], trainer: Trainer) -> tuple[Tensor, Tensor]:
    """The logits ``(N, C)`` and the index ``(N,)`` of the images of all processes, sorted by index, on the CPU."""
    logits, index = (gather_rows(torch.cat(part), trainer).cpu() for part in zip(*batches, strict=True))
    order = index.argsort()
    return logits[order], index[order]


def write_logits(path: Path, logits: Tensor, labels: Tensor, index: Tensor) -> None:
    """Writes ``logits`` ``(N, C)`` as float16, with the ``labels`` and ``index`` of the images, int64 ``(N,)``."""
    arrays = {"logits": logits.half().cpu(), "labels": labels, "index": index}
    with atomic_write(path) as temporary:
        np.savez(temporary, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]
