"""The plots of an evaluation: confusion matrix and reliability diagram."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from regularization.callbacks.curves import COLORS
from regularization.inference.calibration import ReliabilityBins

ACCURACY_COLOR, CONFIDENCE_COLOR = COLORS["train"], COLORS["val"]
COLORMAP = LinearSegmentedColormap.from_list("shares", ["white", ACCURACY_COLOR, "#0b2f4c"])
MAX_CLASSES_WITH_COUNTS = 20  # with more classes the counts do not fit into the cells
MAX_NAME_LENGTH = 24  # characters
MIN_BIN_IMAGES = 10  # bars of fewer images are pale, because their accuracy is uncertain
INCHES_PER_POINT = 1 / 72
LETTER_WIDTH = 0.6  # relative to the font size


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str], part: str = "test") -> Figure:
    """Draws the confusion matrix, with the true classes in rows and the predicted classes in columns.

    The color shows the fraction of the row's images, on a square-root scale, so that rare errors are visible.

    Args:
        counts: Number of images of the row's class that were predicted as the column's class, ``(C, C)``.
        names: Names of the C classes. If they do not fit, only every second, third, … name is written.
        part: The part of the data that the images belong to.
    """
    count = len(names)
    cell = min(1.0, max(0.16, 6 / count), 16 / count)  # inches
    font_size = min(9.0, max(6.0, 0.75 * cell / INCHES_PER_POINT))
    labels = [shorten(name) for name in names]
    side = max(2.0, cell * count) + _text_width(labels, font_size) + 0.6
    # The compressed layout keeps the matrix square and the color bar equally high, however much space the names need.
    figure = Figure(figsize=(side + 1.2, side + 0.4), layout="compressed")
    axes = figure.subplots()
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(fractions, cmap=COLORMAP, norm=PowerNorm(0.5, 0, 1))
    _label_classes(axes, labels, font_size, cell)
    if count <= MAX_CLASSES_WITH_COUNTS:
        _write_counts(axes, counts, fractions, cell)
    axes.set_title(f"{counts.trace() / counts.sum():.2%} of {counts.sum():,} {part} images correct", fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=30, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.set_label("fraction of the true class")
    return figure


def draw_reliability(bins: ReliabilityBins, calibration_error: float) -> Figure:
    """Draws accuracy against confidence per bin, with the diagonal of perfect calibration, and the bin sizes below.

    Args:
        bins: What to draw.
        calibration_error: The expected calibration error, written into the title.
    """
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, len(bins.images) + 1)
    centers, width = (edges[:-1] + edges[1:]) / 2, 0.92 * edges[1]
    full = bins.images >= MIN_BIN_IMAGES
    upper.bar(centers[full], bins.accuracy[full], width, color=ACCURACY_COLOR, label="accuracy")
    pale_label = f"accuracy of fewer than {MIN_BIN_IMAGES} images"
    upper.bar(centers[~full], bins.accuracy[~full], width, color=ACCURACY_COLOR, alpha=0.35, label=pale_label)
    upper.hlines(bins.confidence, edges[:-1], edges[1:], color=CONFIDENCE_COLOR, linewidth=2.5, label="mean confidence")
    upper.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
    bars = lower.bar(centers, bins.images, width, color=ACCURACY_COLOR)
    lower.bar_label(bars, [f"{number:,}" if number else "" for number in bins.images], fontsize=7, padding=1)
    lower.margins(y=0.2)
    upper.set_title(f"calibration error {calibration_error:.4f}", fontsize=11)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.01))
    lower.set(ylabel="images", xlabel="confidence: probability of the predicted class")
    for axis in (upper.xaxis, upper.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def shorten(name: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Cuts the middle out of a ``name`` that is too long, because the names in a data set often begin alike."""
    half = (max_length - 1) / 2
    return name if len(name) <= max_length else f"{name[: math.ceil(half)]}…{name[-math.floor(half) :]}"


def _text_width(labels: Sequence[str], font_size: float) -> float:
    """Width of the longest label in inches, estimated."""
    return max(map(len, labels)) * font_size * INCHES_PER_POINT * LETTER_WIDTH


def _write_counts(axes: Axes, counts: NDArray[np.int64], fractions: NDArray[np.float64], cell: float) -> None:
    font_size = min(10.0, 0.85 * cell / INCHES_PER_POINT / LETTER_WIDTH / max(2, len(str(counts.max()))))
    for (row, column), number in np.ndenumerate(counts):
        if number:
            color = "white" if fractions[row, column] > 0.15 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=color, fontsize=font_size)


def _label_classes(axes: Axes, labels: Sequence[str], font_size: float, cell: float) -> None:
    step = math.ceil(1.2 * font_size * INCHES_PER_POINT / cell)
    ticks = range(0, len(labels), step)
    # A dollar sign would begin a formula.
    shown = [labels[tick].replace("$", r"\$") for tick in ticks]
    fits = _text_width(labels, font_size) < 0.9 * cell * step
    axes.set_xticks(ticks, shown, fontsize=font_size, rotation=0 if fits else 90)
    axes.set_yticks(ticks, shown, fontsize=font_size)
    if step == 1:
        # A grid makes it easier to see which name belongs to a row.
        edges = np.arange(len(labels) + 1) - 0.5
        axes.hlines(edges, edges[0], edges[-1], color="#dddddd", linewidth=0.5)
        axes.vlines(edges, edges[0], edges[-1], color="#dddddd", linewidth=0.5)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
