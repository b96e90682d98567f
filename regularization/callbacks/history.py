"""The history of a run: one row an epoch, kept in the checkpoint, written to ``metrics.csv`` and shown as a line."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from regularization.internals.lightning import restore_callback_metrics
from regularization.models.classifier import ImageClassifier
from regularization.runs.directory import METRICS, add_result, write_text

Row = dict[str, float]
VALIDATION = ("val_", "clean_")
FIRST = ["epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]


class History(Checkpoint):
    """Collects every epoch's metrics with the learning rate at its start and the seconds it took.

    Its rows are part of the checkpoint: a run continued from one gets back exactly the rows up to there, and
    ``metrics.csv`` is written anew from them. It is a ``Checkpoint`` callback because Lightning runs those after the
    module has logged the epoch, and must stand before those that save.

    Args:
        folder: The run folder, which gets ``metrics.csv`` and ``result.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Row] = []
        self.started = False
        self._validated = False
        self._seen: Row = {}
        self._lr = float("nan")
        self._epoch_started = self._run_started = 0.0
        self._first_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """The rows, as plain numbers, and what is known of the next one."""
        seconds = round(time.perf_counter() - self._epoch_started, 3)
        return {
            "rows": [dict(row) for row in self.rows],
            "epoch": {"lr": self._lr, "seconds": seconds, "validation": dict(self._seen), "validated": self._validated},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the checkpoint's rows back; an epoch that was begun goes on with its clock."""
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._seen = dict(state_dict["epoch"]["validation"])
        self._validated = state_dict["epoch"]["validated"]
        self._lr = state_dict["epoch"]["lr"]
        self._epoch_started = time.perf_counter() - state_dict["epoch"]["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops the rows past the checkpoint from the file."""
        self.started = True
        self._run_started = time.perf_counter()
        self._first_epoch = trainer.current_epoch
        if self._seen:
            # Whoever watches a metric sees the newest one until the next validation.
            restored = {name: torch.tensor(value) for name, value in self._seen.items()}
            restore_callback_metrics(trainer, restored)
        assert isinstance(pl_module, ImageClassifier)
        pl_module.validated = self._validated
        if self.rows and trainer.is_global_zero:
            self._write()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the epoch."""
        self._epoch_started = time.perf_counter()
        self._validated = False
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the epoch has validation metrics, and which."""
        self._validated = True
        self._seen = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(VALIDATION)
        }

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the epoch's row, writes the file, prints the line."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not self._validated:
            # Lightning keeps the values of the last validation, which may be some epochs ago.
            metrics = {name: value for name, value in metrics.items() if not name.startswith((*VALIDATION, "gap_"))}
        seconds = round(time.perf_counter() - self._epoch_started, 3)
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics}
        self.rows.append(row | {"lr": self._lr, "seconds": seconds})
        if trainer.is_global_zero:
            self._write()
            print(self._line(trainer), flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last epoch."""
        if self.rows and trainer.is_global_zero:
            self._write_result(trainer, pl_module)

    def _write_result(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the best and the last epoch to ``result.json``, with λ and τ."""
        assert isinstance(pl_module, ImageClassifier)
        optimization = pl_module.optimization
        tau = optimization.tau(trainer.optimizers[0], 0)
        strength = {
            "weight_decay": optimization.base_weight_decay(0),
            "timescale_epochs": None if tau == math.inf else tau,
        }
        best, last = ({k: v for k, v in row.items() if "/" not in k} for row in (self.best(), self.rows[-1]))
        add_result(self.folder, {"best": best, "last": last, **strength})

    def best(self) -> Row:
        """The row with the highest validation accuracy, the first of equals; the last row where there is none."""
        scored = [row for row in self.rows if "val_accuracy" in row]
        return max(scored, key=lambda row: row["val_accuracy"]) if scored else self.rows[-1]

    def _write(self) -> None:
        present = dict.fromkeys(name for row in self.rows for name in row)
        columns = [name for name in FIRST if name in present] + [name for name in present if name not in FIRST]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / METRICS, text.getvalue())

    def _line(self, trainer: Trainer) -> str:
        row = self.rows[-1]
        parts = [f"epoch {row['epoch']:3.0f}"]
        for stage, name in (("train", "train"), ("val", "validation")):
            if f"{stage}_loss" in row:
                parts.append(f"{name} loss {row[f'{stage}_loss']:.4f} accuracy {row[f'{stage}_accuracy']:.4f}")
        parts.append(f"{row['seconds']:.1f} s")
        left = self._seconds_left(trainer)
        return "  ".join([*parts, f"{format_duration(left)} left"] if left else parts)

    def _seconds_left(self, trainer: Trainer) -> float:
        done = trainer.current_epoch + 1 - self._first_epoch
        total = trainer.estimated_stepping_batches
        if total == float("inf") or not trainer.global_step:
            return 0.0
        epochs_left = (total - trainer.global_step) / (trainer.global_step / (trainer.current_epoch + 1))
        return (time.perf_counter() - self._run_started) / done * epochs_left


def format_duration(seconds: float) -> str:
    """For people: 3 min 20 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
