"""``curves.png``: loss, accuracy and objective per epoch, in training and validation."""

from contextlib import suppress
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from regularization.callbacks.history import History, Row
from regularization.errors import UserError
from regularization.models.objective import ACCURACY, LOSS, Objective, best_row
from regularization.runs.directory import CURVES, atomic_write

COLORS = {"train": "#2a78b5", "val": "#d1603d"}
LABELS = {"train": "training", "val": "validation"}


class Curves(Callback):
    """Plots the history into the run folder when training ends, even if a signal or an error ends it.

    Args:
        history: The epochs to draw.
        objective: The metric whose best epoch is marked.
    """

    def __init__(self, history: History, objective: Objective = ACCURACY) -> None:
        self.history = history
        self.objective = objective

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
            title = f"{folder.parent.name}/{folder.name}"
            save(draw(self.history.rows, title, self.objective), folder / CURVES)


def draw(rows: list[Row], title: str, objective: Objective = ACCURACY) -> Figure:
    """Plots cross-entropy and accuracy over the epochs, and the objective if it is another metric.

    A circle marks the best value of the objective. Epochs are counted from 1, unlike in the rows.
    """
    labels = {LOSS: "cross-entropy (nats)", ACCURACY: "accuracy"}
    best = best_row(rows, objective)
    labels |= {objective: objective.name} if best and objective not in labels else {}
    # A Figure without pyplot needs no display and leaves no global state behind.
    figure = Figure(figsize=(5 * len(labels), 4), layout="constrained")
    figure.suptitle(title)
    panels: dict[Objective, Axes] = dict(zip(labels, figure.subplots(1, len(labels)), strict=True))
    for stage in LABELS:
        _plot(panels[LOSS], rows, f"{stage}_loss", COLORS[stage], LABELS[stage])
        _plot(panels[ACCURACY], rows, f"{stage}_accuracy", COLORS[stage], LABELS[stage])
    if len(panels) > 2:
        _plot(panels[objective], rows, objective.metric, COLORS["val"], objective.name)
    if best:
        _mark(panels[objective], best, objective)
    panels[LOSS].set_ylim(bottom=0)
    for shown, axes in panels.items():
        axes.set_ylabel(labels[shown])
        if shown.is_fraction:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the plot as a PNG file; see ``atomic_write``."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _plot(axes: Axes, rows: list[Row], metric: str, color: str, label: str) -> None:
    points = [(row["epoch"] + 1, row[metric]) for row in rows if metric in row]
    if points:
        # A line through a single point is invisible without markers.
        epochs, values = zip(*points, strict=True)
        axes.plot(epochs, values, color=color, label=label, marker="o", markersize=3)


def _mark(axes: Axes, row: Row, objective: Objective) -> None:
    value = row[objective.metric]
    label = f"best {objective.format(value)}"
    axes.plot(row["epoch"] + 1, value, "o", markersize=9, fillstyle="none", color="black", label=label)
