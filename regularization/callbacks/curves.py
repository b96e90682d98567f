"""``curves.png``: loss and accuracy per epoch, in training and validation."""

from contextlib import suppress
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from regularization.callbacks.history import History, Row
from regularization.errors import UserError
from regularization.models.objective import ACCURACY, best_row
from regularization.runs.directory import CURVES, atomic_write

COLORS = {"train": "#2a78b5", "val": "#d1603d"}
LABELS = {"train": "training", "val": "validation"}


class Curves(Callback):
    """Draws the history into the run folder when training ends, also when a signal or an error ends it.

    Args:
        history: The epochs to draw.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws all epochs."""
        if trainer.is_global_zero:
            self.draw()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draws the epochs so far."""
        # If the disk is full, the user should see that error and not that the plot can't be written either.
        with suppress(UserError):
            self.on_train_end(trainer, pl_module)

    def draw(self) -> None:
        """Writes the plot, unless there is no epoch yet."""
        folder = self.history.folder
        if self.history.rows:
            save(draw(self.history.rows, title=f"{folder.parent.name}/{folder.name}"), folder / CURVES)


def draw(rows: list[Row], title: str) -> Figure:
    """Plots cross-entropy and accuracy over the epochs in two panels; a circle marks the best validation accuracy.

    Epochs are counted from 1, unlike in the rows.
    """
    # A Figure without pyplot needs no display and leaves no global state behind.
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    for stage in LABELS:
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
    """Writes the plot as a PNG file; see ``atomic_write``."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _plot(axes: Axes, rows: list[Row], stage: str, quantity: str) -> None:
    points = [(row["epoch"] + 1, row[f"{stage}_{quantity}"]) for row in rows if f"{stage}_{quantity}" in row]
    if points:
        # A line through a single point is invisible without markers.
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, color=COLORS[stage], label=LABELS[stage], marker="o", markersize=3)


def _mark_best(axes: Axes, rows: list[Row]) -> None:
    if best := best_row(rows, ACCURACY):
        label = f"best {best['val_accuracy']:.2%}"
        axes.plot(
            best["epoch"] + 1, best["val_accuracy"], "o", markersize=9, fillstyle="none", color="black", label=label
        )
