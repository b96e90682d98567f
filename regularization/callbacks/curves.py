"""``curves.png``: loss and accuracy by epoch, for training and validation."""

from contextlib import suppress
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from regularization.callbacks.history import History, Row
from regularization.errors import UserError
from regularization.runs.directory import CURVES, atomic_write

COLORS = {"train": "#2a78b5", "val": "#d1603d"}
NAMES = {"train": "training", "val": "validation"}


class Curves(Callback):
    """Draws the history into the run folder when training ends, also when it ends by Ctrl-C or an error.

    Args:
        history: Where the rows come from.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After the last epoch."""
        if trainer.is_global_zero:
            self.draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After an interruption: the epochs so far."""
        # Where the disk is full, that is what has to be said, not that there is no picture either.
        with suppress(UserError):
            self.on_train_end(trainer, pl_module)

    def draw(self) -> None:
        """Draws the picture, unless there is nothing to be seen yet."""
        if self.history.rows:
            figure = draw(self.history.rows, title=f"{self.history.folder.parent.name}/{self.history.folder.name}")
            save(figure, self.history.folder / CURVES)


def draw(rows: list[Row], title: str) -> Figure:
    """Two panels over the epochs: cross-entropy and accuracy; a dot marks the best validation accuracy."""
    # A Figure without pyplot needs no display and leaves no global state behind.
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    for stage in NAMES:
        _plot(loss, rows, stage, "loss")
        _plot(accuracy, rows, stage, "accuracy")
    _mark_best(accuracy, rows)
    loss.set_ylabel("cross-entropy (nats)")
    loss.set_ylim(bottom=0)
    accuracy.set_ylabel("accuracy")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    for axes in (loss, accuracy):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the picture as PNG, replacing an older one in one step."""
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150)


def _plot(axes: Axes, rows: list[Row], stage: str, quantity: str) -> None:
    points = [(row["epoch"], row[f"{stage}_{quantity}"]) for row in rows if f"{stage}_{quantity}" in row]
    if points:
        # A line through one point can't be seen, hence the markers.
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, color=COLORS[stage], label=NAMES[stage], marker="o", markersize=3)


def _mark_best(axes: Axes, rows: list[Row]) -> None:
    scored = [row for row in rows if "val_accuracy" in row]
    if scored:
        best = max(scored, key=lambda row: row["val_accuracy"])
        label = f"best {best['val_accuracy']:.2%}"
        axes.plot(best["epoch"], best["val_accuracy"], "o", markersize=9, fillstyle="none", color="black", label=label)
