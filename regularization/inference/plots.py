"""The figures of an evaluation: confusion matrix and reliability diagram."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from regularization.callbacks.curves import COLORS

RIGHT, WRONG = COLORS["train"], COLORS["val"]
SHADES = LinearSegmentedColormap.from_list("shares", ["white", RIGHT, "#0b2f4c"])
COUNTED = 20  # classes up to which counts fit into the cells
LONGEST = 24  # letters of a name
FEW = 10  # images in a bin, whose accuracy says little
POINT = 1 / 72  # inch
LETTER = 0.6  # width of a letter as a share of its height


@dataclass(frozen=True)
class Reliability:
    """Answers in B bins of their confidence, of the same width from 0 to 1.

    Attributes:
        images: How many are in each, ``(B,)``.
        confidence: Their mean confidence, ``(B,)``, NaN where there are none.
        accuracy: Share of them that is right, likewise.
    """

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """True classes in rows, guesses in columns; the color is the share of the row, its square root to show rare ones.

    Args:
        counts: How often a row's class was taken for a column's, ``(C, C)``.
        names: Of the C classes. Where they don't fit, every second, third, … is written.
    """
    count = len(names)
    cell = min(1.0, max(0.16, 6 / count), 16 / count)  # inches
    size = min(9.0, max(6.0, 0.75 * cell / POINT))
    labels = [shortened(name) for name in names]
    room = max(map(len, labels)) * size * POINT * LETTER + 0.6
    side = max(2.0, cell * count) + room
    # Compressed: the matrix is square whatever room its names take, and the bar beside it as high.
    figure = Figure(figsize=(side + 1.2, side + 0.4), layout="compressed")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap=SHADES, norm=PowerNorm(0.5, 0, 1))
    _name_classes(axes, labels, size, cell)
    if count <= COUNTED:
        _write_counts(axes, counts, shares, cell)
    axes.set_title(f"{counts.trace() / counts.sum():.2%} of {counts.sum():,} test images right", fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, aspect=30, ticks=[0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.set_label("share of the true class")
    return figure


def draw_reliability(found: Reliability, calibration_error: float) -> Figure:
    """Accuracy against confidence, in bins, beside what it would be if calibrated; below, how many answers are in each.

    Args:
        found: The bins.
        calibration_error: The number that sums them up, to be written above.
    """
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.linspace(0, 1, len(found.images) + 1)
    middles, width = (edges[:-1] + edges[1:]) / 2, 0.92 * edges[1]
    many = found.images >= FEW
    above.bar(middles[many], found.accuracy[many], width, color=RIGHT, label="accuracy")
    few = f"of fewer than {FEW} images"
    above.bar(middles[~many], found.accuracy[~many], width, color=RIGHT, alpha=0.35, label=few)
    above.hlines(found.confidence, edges[:-1], edges[1:], color=WRONG, linewidth=2.5, label="mean confidence")
    above.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
    bars = below.bar(middles, found.images, width, color=RIGHT)
    below.bar_label(bars, [f"{number:,}" if number else "" for number in found.images], fontsize=7, padding=1)
    below.margins(y=0.2)
    above.set_title(f"calibration error {calibration_error:.4f}", fontsize=11)
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.01))
    below.set(ylabel="images", xlabel="confidence: the probability of the guess")
    for axis in (above.xaxis, above.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def shortened(name: str, longest: int = LONGEST) -> str:
    """The name with its middle left out when it is long: names of a data set may begin alike."""
    half = (longest - 1) / 2
    return name if len(name) <= longest else f"{name[: math.ceil(half)]}…{name[-math.floor(half) :]}"


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64], cell: float) -> None:
    size = min(10.0, 0.85 * cell / POINT / LETTER / max(2, len(str(counts.max()))))
    for (row, column), number in np.ndenumerate(counts):
        if number:
            color = "white" if shares[row, column] > 0.15 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=color, fontsize=size)


def _name_classes(axes: Axes, labels: Sequence[str], size: float, cell: float) -> None:
    step = math.ceil(1.2 * size * POINT / cell)
    places = range(0, len(labels), step)
    # A $ would begin a formula.
    shown = [labels[place].replace("$", r"\$") for place in places]
    fits = max(map(len, labels)) * size * POINT * LETTER < 0.9 * cell * step
    axes.set_xticks(places, shown, fontsize=size, rotation=0 if fits else 90)
    axes.set_yticks(places, shown, fontsize=size)
    if step == 1:
        # A grid to follow a row to its name.
        edges = np.arange(len(labels) + 1) - 0.5
        axes.hlines(edges, edges[0], edges[-1], color="#dddddd", linewidth=0.5)
        axes.vlines(edges, edges[0], edges[-1], color="#dddddd", linewidth=0.5)
    axes.set_xlabel("guess")
    axes.set_ylabel("true class")
