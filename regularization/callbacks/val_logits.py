"""``val_logits.npz``: what the network said about every validation image, to compare runs without training again."""

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
    """Writes the newest epoch's validation: ``logits`` float16 ``(N, C)``, ``labels`` and ``index`` int64 ``(N,)``.

    ``index`` counts in the whole training set, so that runs with the same split are paired image by image.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[tuple[Tensor, Tensor]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts anew."""
        self._parts.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Keeps the batch's logits, on the device, and of which images they are."""
        self._parts.append((outputs.half(), batch.indices[: batch.counted]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoint: whoever has that one has these too."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self._parts and data.val_set is not None:
            logits, index = gather_logits(self._parts, trainer)
            self._parts.clear()
            if trainer.is_global_zero:
                write_logits(self._folder / LOGITS, logits, data.val_set[0].labels[index], index)


def gather_logits(parts: list[tuple[Tensor, Tensor]], trainer: Trainer) -> tuple[Tensor, Tensor]:
    """All processes' logits ``(N, C)`` with their images' index ``(N,)``, in the order of the data set; on the CPU."""
    logits, index = (gather_rows(torch.cat(part), trainer).cpu() for part in zip(*parts, strict=True))
    order = index.argsort()
    return logits[order], index[order]


def write_logits(path: Path, logits: Tensor, labels: Tensor, index: Tensor) -> None:
    """Writes ``logits`` ``(N, C)`` as float16, with the images' ``labels`` and ``index`` int64 ``(N,)``."""
    arrays = {"logits": logits.half().cpu(), "labels": labels, "index": index}
    with atomic_write(path) as aside:
        np.savez(aside, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]
