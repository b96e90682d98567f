"""Plots several tables of runs: the gain over λ = 0 with the same seed, by λ, one line for each table.

``python -m tests.benchmarks.gains .github/images.png docs/measurements/runs/images_*.csv.gz``

With ``--tau``, a second panel shows the same gains by the timescale τ in epochs. ``LABEL=TABLE`` sets the label of a
line, which is the name of its table by default.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from tests.benchmarks.runs import rows

LABELS = {"weight_decay": "weight decay λ", "tau": "timescale τ, epochs"}
# Colors that people with color blindness can tell apart (Okabe and Ito 2008), and markers for prints in gray.
STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#000000", "v"), ("#E69F00", "P"))
# Factor between the positions of two lines at the same λ, so that their bars do not overlap.
SHIFT = 1.03


def gains(path: Path, by: str = "weight_decay") -> dict[float, NDArray[np.float64]]:
    """The gains in points by λ or τ, one for each seed that was also trained with λ = 0."""
    accuracies: dict[float, dict[str, float]] = defaultdict(dict)
    positions: dict[float, float] = {}
    for row in rows(path):
        strength = float(row["weight_decay"])
        accuracies[strength][row["seed"]] = 100 * float(row["val_accuracy"])
        positions[strength] = float(row[by] or "nan")
    baseline = accuracies.pop(0.0)
    return {
        positions[strength]: np.array([value - baseline[seed] for seed, value in seeds.items() if seed in baseline])
        for strength, seeds in sorted(accuracies.items())
    }


def draw(tables: dict[str, Path], picture: Path, lowest: float, columns: list[str]) -> None:
    """Draws means with their standard errors; means below ``lowest`` are cut off."""
    figure = Figure(figsize=(1.7 + 5.1 * len(columns), 3.6), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for column, axes in zip(columns, panels, strict=True):
        highest = _draw(axes, tables, column)
        axes.set(xscale="log", xlabel=LABELS[column], ylim=(lowest, 1.1 * highest))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("gain over λ = 0, points")
    panels[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(picture, dpi=150)


def _draw(axes: Axes, tables: dict[str, Path], by: str) -> float:
    """Draws one panel; returns the upper end of the highest error bar."""
    ends = []
    for index, ((label, path), (color, marker)) in enumerate(zip(tables.items(), STYLES, strict=False)):
        by_position = gains(path, by)
        shift = SHIFT ** (index - (len(tables) - 1) / 2)
        positions = [position * shift for position in by_position]
        means = [float(values.mean()) for values in by_position.values()]
        errors = [float(values.std(ddof=1) / len(values) ** 0.5) for values in by_position.values()]
        axes.errorbar(positions, means, errors, color=color, label=label, capsize=2, marker=marker, markersize=4)
        ends += [mean + error for mean, error in zip(means, errors, strict=True)]
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return max(ends)


def _parse_table(table: str) -> tuple[str, Path]:
    label, _, path = table.rpartition("=")
    return label or Path(path).name.removesuffix(".csv.gz").replace("_", " "), Path(path)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, metavar="PNG")
    parser.add_argument("tables", type=_parse_table, nargs="+", metavar="TABLE", help=f"at most {len(STYLES)}")
    parser.add_argument("--lowest", type=float, default=-2.0, metavar="POINTS")
    parser.add_argument("--tau", action="store_true")
    args = parser.parse_args()
    if len(args.tables) > len(STYLES):
        parser.error(f"at most {len(STYLES)} tables can be told apart in one figure")
    draw(dict(args.tables), args.picture, args.lowest, list(LABELS)[: 1 + args.tau])


if __name__ == "__main__":
    main()
