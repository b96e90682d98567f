"""The picture of several tables of runs: the gain over λ = 0 within seeds, by λ, one line for each table.

``python -m tests.benchmarks.gains .github/images.png docs/measurements/runs/images_*.csv.gz``
"""

import argparse
import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray


def gains(path: Path) -> dict[float, NDArray[np.float64]]:
    """The gains in points of each λ, one for each seed that was also trained with λ = 0."""
    accuracies: dict[float, dict[str, float]] = defaultdict(dict)
    with gzip.open(path, "rt") as file:
        for row in csv.DictReader(file):
            accuracies[float(row["weight_decay"])][row["seed"]] = 100 * float(row["val_accuracy"])
    baseline = accuracies.pop(0.0)
    return {
        strength: np.array([value - baseline[seed] for seed, value in seeds.items() if seed in baseline])
        for strength, seeds in sorted(accuracies.items())
    }


def draw(tables: list[Path], picture: Path, lowest: float) -> None:
    """Draws means with their standard errors; means below ``lowest`` are cut off."""
    figure = Figure(figsize=(6.8, 3.6), layout="constrained")
    axes = figure.subplots()
    for path, color in zip(tables, colormaps["viridis"](np.linspace(0, 0.85, len(tables))), strict=True):
        by_strength = gains(path)
        means = [float(values.mean()) for values in by_strength.values()]
        errors = [float(values.std(ddof=1) / len(values) ** 0.5) for values in by_strength.values()]
        label = path.name.removesuffix(".csv.gz").replace("_", " ")
        axes.errorbar(list(by_strength), means, errors, color=color, label=label, capsize=2, marker="o", markersize=3)
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xscale="log", xlabel="weight decay λ", ylabel="gain over λ = 0, points", ylim=(lowest, None))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=150)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, metavar="PNG")
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE")
    parser.add_argument("--lowest", type=float, default=-2.0, metavar="POINTS")
    args = parser.parse_args()
    draw(args.tables, args.picture, args.lowest)


if __name__ == "__main__":
    main()
