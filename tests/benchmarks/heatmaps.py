"""Plots two studies of the learning rate: one by λ, and one by τ.

``python -m tests.benchmarks.heatmaps .github/valley.png lr_and_lambda.csv.gz lr_and_tau.csv.gz``

Each panel shows the mean validation accuracy of every pair. In the second one, λ follows from the learning rate η and
τ, so that the decay per step does not depend on η, as in decoupled weight decay (arXiv:1711.05101).
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from tests.benchmarks.runs import rows

LABELS = {"weight_decay": "weight decay λ", "tau": "timescale τ, epochs"}


def grid(path: Path, by: str) -> tuple[list[float], list[float], NDArray[np.float64]]:
    """Learning rates, values of λ or τ with the weakest decay first, and mean accuracies in percent for each pair."""
    found: dict[tuple[float, float], list[float]] = {}
    for row in rows(path):
        # With λ = 0 there is no τ, which counts as infinite. Values are rounded because τ follows from λ.
        position = float(f"{float(row[by] or 'inf'):.2g}")
        found.setdefault((float(row["lr"]), position), []).append(100 * float(row["val_accuracy"]))
    rates = sorted({rate for rate, _ in found})
    positions = sorted({position for _, position in found}, reverse=by == "tau")
    means = [[np.mean(found.get((rate, position), np.nan)) for position in positions] for rate in rates]
    return rates, positions, np.array(means)


def draw(tables: list[Path], picture: Path) -> None:
    """Draws both panels with one scale of colors, which ends 10 points below the best pair."""
    grids = [grid(path, by) for path, by in zip(tables, LABELS, strict=True)]
    best = max(float(np.nanmax(means)) for *_, means in grids)
    figure = Figure(figsize=(10.2, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, found, label in zip(panels, grids, LABELS.values(), strict=True):
        image = _draw(axes, *found, best)
        axes.set_xlabel(label)
    panels[0].set_ylabel("learning rate η")
    figure.colorbar(image, ax=panels, label="validation accuracy, %", extend="min")
    figure.savefig(picture, dpi=150)


def _draw(axes: Axes, rates: list[float], positions: list[float], means: NDArray[np.float64], best: float) -> AxesImage:
    image = axes.imshow(means, origin="lower", aspect="auto", cmap="viridis", vmin=best - 10, vmax=best)
    axes.set_xticks(range(len(positions)), [f"{position:g}" for position in positions])
    axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    for (row, column), mean in np.ndenumerate(means):
        color = "black" if mean > best - 4 else "white"
        axes.text(column, row, f"{mean:.1f}", ha="center", va="center", color=color, fontsize=9)
    return image


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, metavar="PNG")
    parser.add_argument("by_decay", type=Path, metavar="TABLE_BY_DECAY")
    parser.add_argument("by_timescale", type=Path, metavar="TABLE_BY_TIMESCALE")
    args = parser.parse_args()
    draw([args.by_decay, args.by_timescale], args.picture)


if __name__ == "__main__":
    main()
