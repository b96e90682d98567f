"""The history of a run: one row of metrics per epoch, in the checkpoint, in ``metrics.csv`` and on the terminal."""

import math
import textwrap
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from regularization.internals.lightning import restore_callback_metrics, training_length
from regularization.models.classifier import ImageClassifier
from regularization.models.objective import ACCURACY, Objective, best_row
from regularization.runs.directory import METRICS, RESULT, add_result, write_csv

Row = dict[str, float]
# Prefixes of the metrics that only exist after a validation.
VALIDATION = ("val_", "clean_")
# Columns of a terminal.
MAX_WIDTH = 80
# Column widths of a loss, an accuracy and a duration in the line of an epoch.
LOSS, ACCURACY_WIDTH, TIME = 7, 8, 7
FIRST_COLUMNS = ["epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]


class History(Checkpoint):
    """Collects the metrics of each epoch, with the learning rate at its start and its duration in seconds.

    The rows are part of the checkpoint: a resumed run has exactly the rows up to the checkpoint, and rewrites
    ``metrics.csv`` from them. This is a ``Checkpoint`` callback because Lightning calls those after the module has
    logged the metrics of the epoch. It has to come before the callbacks that save checkpoints.

    Args:
        folder: The run folder, for ``metrics.csv`` and ``result.json``.
        objective: The metric whose best epoch is kept.

    Attributes:
        rows: The metrics per epoch.
        started: Whether training has started.
    """

    def __init__(self, folder: Path, objective: Objective = ACCURACY) -> None:
        self.folder = folder
        self.objective = objective
        self.rows: list[Row] = []
        self.started = False
        self._validated = False
        self._validation_metrics: Row = {}
        self._lr = float("nan")
        self._epoch_start = self._run_start = 0.0
        self._first_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """The rows, as plain numbers, and the state that the next row needs."""
        epoch = {
            "lr": self._lr,
            "seconds": self._epoch_seconds(),
            "validation": dict(self._validation_metrics),
            "validated": self._validated,
        }
        return {"rows": [dict(row) for row in self.rows], "epoch": epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the rows; the clock of an epoch in progress continues."""
        epoch = state_dict["epoch"]
        self.rows = [dict(row) for row in state_dict["rows"]]
        self._validation_metrics = dict(epoch["validation"])
        self._validated = epoch["validated"]
        self._lr = epoch["lr"]
        self._epoch_start = time.perf_counter() - epoch["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the metrics of the last validation, and removes what is newer than the checkpoint from the files."""
        self.started = True
        self._run_start = time.perf_counter()
        self._first_epoch = trainer.current_epoch
        if self._validation_metrics:
            # Until the next validation, callbacks that monitor a metric see its value in the last validation.
            metrics = {name: torch.tensor(value) for name, value in self._validation_metrics.items()}
            restore_callback_metrics(trainer, metrics)
        assert isinstance(pl_module, ImageClassifier)
        pl_module.validated = self._validated
        if trainer.is_global_zero:
            # The run is no longer complete: the existing result describes a former end, and a new one will replace it.
            (self.folder / RESULT).unlink(missing_ok=True)
            if self.rows:
                self._write_metrics()
            else:
                (self.folder / METRICS).unlink(missing_ok=True)
            print(header(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock of the epoch."""
        self._epoch_start = time.perf_counter()
        self._validated = False
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the validation metrics."""
        self._validated = True
        metrics = trainer.callback_metrics.items()
        self._validation_metrics = {name: float(value) for name, value in metrics if name.startswith(VALIDATION)}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the row of the epoch, writes the file and prints a line."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not self._validated:
            # Lightning keeps the metrics of the last validation, which may be some epochs ago.
            metrics = {name: value for name, value in metrics.items() if not name.startswith((*VALIDATION, "gap_"))}
        row: Row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **metrics}
        self.rows.append(row | {"lr": self._lr, "seconds": self._epoch_seconds()})
        if trainer.is_global_zero:
            self._write_metrics()
            print(self._describe_epoch(trainer), flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the best and the last epoch, λ, τ at the highest learning rate, and the threads to ``result.json``."""
        if not self.rows or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, ImageClassifier)
        optimization = pl_module.optimization
        tau = optimization.tau(trainer.optimizers[0], 0)
        strength = {
            "weight_decay": optimization.base_weight_decay(0),
            "timescale_epochs": None if tau == math.inf else tau,
        }
        best, last = ({k: v for k, v in row.items() if "/" not in k} for row in (self.best(), self.rows[-1]))
        # Scores in an existing file are those of a network that was tested during the training.
        (self.folder / RESULT).unlink(missing_ok=True)
        add_result(self.folder, {"best": best, "last": last, **strength, "threads": torch.get_num_threads()})

    def best(self) -> Row:
        """The first row with the best value of the objective; the last row if no epoch was validated."""
        return best_row(self.rows, self.objective) or self.rows[-1]

    def _epoch_seconds(self) -> float:
        return round(time.perf_counter() - self._epoch_start, 3)

    def _write_metrics(self) -> None:
        present = dict.fromkeys(name for row in self.rows for name in row)
        columns = [name for name in FIRST_COLUMNS if name in present]
        columns += [name for name in present if name not in FIRST_COLUMNS]
        write_csv(self.folder / METRICS, columns, [[row.get(name, "") for name in columns] for row in self.rows])

    def _describe_epoch(self, trainer: Trainer) -> str:
        row, left = self.rows[-1], self._seconds_left(trainer)
        cells = []
        for stage in ("train", "val"):
            known = f"{stage}_loss" in row
            loss = _format_loss(row[f"{stage}_loss"]) if known else ""
            accuracy = f"{row[f'{stage}_accuracy']:.1%}" if known else ""
            cells.append(f"{loss:>{LOSS}} {accuracy:>{ACCURACY_WIDTH}}")
        cells += [f"{_format_seconds(seconds) if seconds else '':>{TIME}}" for seconds in (row["seconds"], left)]
        return "  ".join([_describe_position(int(row["epoch"]) + 1, trainer), *cells]).rstrip()

    def _seconds_left(self, trainer: Trainer) -> float:
        """An estimate from the epochs of this process so far; 0 if the end is unknown."""
        epochs = trainer.current_epoch + 1
        total, _ = training_length(trainer)
        if total == float("inf") or not trainer.global_step:
            return 0.0
        epochs_left = max(0.0, (total - trainer.global_step) / (trainer.global_step / epochs))
        if trainer.max_steps == -1 and trainer.max_epochs is not None:
            # Epochs may differ in their number of steps.
            epochs_left = max(0, trainer.max_epochs - epochs)
        return (time.perf_counter() - self._run_start) / (epochs - self._first_epoch) * epochs_left


def header(trainer: Trainer) -> str:
    """The two header lines above the lines of the epochs, with the names of the columns."""
    start = " " * len(_describe_position(0, trainer))
    pair = f"{'loss':>{LOSS}} {'accuracy':>{ACCURACY_WIDTH}}"
    stages = [f"{name:>{len(pair)}}" for name in ("training", "validation")]
    times = [f"{name:>{TIME}}" for name in ("time", "left")]
    return "  ".join([start, *stages]) + "\n" + "  ".join([start, pair, pair, *times])


def _describe_position(number: int, trainer: Trainer) -> str:
    """The epoch number, counted from 1, followed by the total if only the number of epochs ends the run."""
    total = trainer.max_epochs or -1
    if total == -1 or trainer.max_steps != -1:
        return f"epoch {number:3}"
    return f"epoch {number:{len(str(total))}}/{total}"


def _format_loss(loss: float) -> str:
    return f"{loss:.3f}" if abs(loss) < 1000 else f"{loss:.1e}"


def _format_seconds(seconds: float) -> str:
    """A duration in its largest unit, with two digits: 0.4 s, 59 s, 1.5 min, 12 h."""
    unit, size = ("s", 1) if seconds < 60 else ("min", 60) if seconds < 3600 else ("h", 3600)
    number = seconds / size
    return f"{number:.1f} {unit}" if number < 9.95 else f"{number:.0f} {unit}"


def wrap(text: str) -> str:
    """Wraps the text after commas into lines that fit a terminal."""
    # textwrap does not break lines at no-break spaces.
    parts = [part.replace(" ", "\N{NO-BREAK SPACE}") for part in text.split(", ")]
    return textwrap.fill(", ".join(parts), MAX_WIDTH).replace("\N{NO-BREAK SPACE}", " ")


def format_duration(seconds: float) -> str:
    """The duration in the form ``3 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
