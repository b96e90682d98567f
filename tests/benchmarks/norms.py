"""Plots the effect of λ on the weights: their norm by epoch, one line for each λ of a study.

``python -m tests.benchmarks.norms runs/quickstart/version_0 .github/norms.png``
"""

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from regularization.study import found_runs
from regularization.study.results import Result, Row


def norm(row: Row) -> float:
    """‖w‖ of all weights in one epoch."""
    return math.hypot(*(value for name, value in row.items() if name.startswith("norm/")))


def draw(runs: list[Result], path: Path) -> None:
    """Draws the means over seeds."""
    strengths = sorted({run.weight_decay for run in runs})
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    colors = colormaps["viridis"](np.linspace(0, 0.85, len(strengths)))
    for strength, color in zip(strengths, colors, strict=True):
        curves = [[norm(row) for row in run.rows] for run in runs if run.weight_decay == strength]
        mean = np.mean(curves, axis=0)
        axes.plot(np.arange(1, len(mean) + 1), mean, color=color, label=f"λ = {strength:g}")
    axes.set(xlabel="epoch", ylabel="norm of the weights ‖w‖", ylim=(0, None))
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="STUDY_FOLDER")
    parser.add_argument("picture", type=Path, metavar="PNG")
    args = parser.parse_args()
    draw(found_runs.find([args.study]).results, args.picture)


if __name__ == "__main__":
    main()
