"""Stored tables of runs, and the studies that are drawn from them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regularization.models.objective import COLLAPSE
from regularization.study.analysis.comparison import Sample, compare
from tests.benchmarks import runs
from tests.benchmarks.answer.claims import Array
from tests.benchmarks.answer.simulator import Simulator, to_sample

FOLDER = Path(__file__).parents[3] / "docs" / "measurements" / "runs"
# Seeds of every arm before the first look, for studies that configure a number other than 2.
STARTS = {"quickstart": 3, "quickstart_fixed": 3}
# Error rates are measured for the arms of a table that have at least this many seeds.
ENOUGH = 8


@dataclass(frozen=True)
class StudyRuns:
    """The runs that a strategy can ask for. The first arm is the baseline, λ = 0.

    Attributes:
        accuracies: ``(arms, seeds)``, as fractions; NaN where there is no run. Seeds are in the order of their use.
        seconds: Training time of each run, ``(arms, seeds)``.
        gains: The true gains over the baseline, ``(arms,)``, as fractions.
        start: Seeds of every arm before the first look.
    """

    accuracies: Array
    seconds: Array
    gains: Array
    start: int = 2

    @property
    def available(self) -> NDArray[np.bool_]:
        """Whether the table has each run, ``(arms, seeds)``."""
        return np.isfinite(self.accuracies)


@dataclass(frozen=True)
class RunTable:
    """A table of the runs of a study with one λ.

    Attributes:
        name: Name of the file.
        arms: Names of the arms, in the order of λ; the first one is λ = 0.
        seeds: The seeds that any arm has.
        runs: All runs; the true gains are those that all runs together show.
    """

    name: str
    arms: list[str]
    seeds: list[int]
    runs: StudyRuns

    def draw(self, most: int, generator: np.random.Generator) -> StudyRuns:
        """A study of at most ``most`` seeds in random order, each used once, with the real accuracies and seconds.

        Seeds that some arms lack come after those that all arms have, as they did when the study was interrupted.
        """
        missing = np.sum(~self.runs.available, axis=0)
        order = np.lexsort((generator.random(len(self.seeds)), missing))[:most]
        return self.in_order(order)

    def in_order(self, order: NDArray[np.int64]) -> StudyRuns:
        """The study that uses these columns of the table in this order."""
        return replace(self.runs, accuracies=self.runs.accuracies[:, order], seconds=self.runs.seconds[:, order])

    def residuals(self) -> Simulator | None:
        """The residuals of the arms with enough seeds, on the seeds that they share; None without two such arms.

        Arms that collapsed are left out: no real arm has their spread around the mean of the others.
        """
        kept = np.flatnonzero((self.runs.available.sum(axis=1) >= ENOUGH) & (self.runs.gains > -COLLAPSE))
        shared = self.runs.available[kept].all(axis=0)
        if len(kept) < 2 or kept[0] != 0 or shared.sum() < ENOUGH:
            return None
        values = self.runs.accuracies[kept][:, shared]
        return Simulator(self.name, values - values.mean(axis=1, keepdims=True))


def draw_null(simulator: Simulator, most: int, start: int, generator: np.random.Generator) -> StudyRuns:
    """A study in which no arm differs: real residuals without the effects of the arms, with random signs by seed."""
    arms, seeds = simulator.residuals.shape
    accuracies = simulator.draw([0.0] * arms, min(seeds, most), generator)
    return StudyRuns(accuracies, np.ones_like(accuracies), np.zeros(arms), start)


def read(path: Path) -> RunTable:
    """Reads a table that ``tests.benchmarks.runs`` wrote.

    Raises:
        ValueError: When the table has no arm with λ = 0, or several.
    """
    rows = [row for row in runs.rows(path) if row["stage"] == "final" and row["val_accuracy"]]
    strengths = {row["arm"]: float(row["weight_decay"]) for row in rows}
    if list(strengths.values()).count(0.0) != 1:
        raise ValueError(f"{path} is not the table of a study with one λ: one arm must have λ = 0")
    arms = sorted(strengths, key=lambda arm: strengths[arm])
    seeds = sorted({int(row["seed"]) for row in rows})
    accuracies, seconds = np.full((2, len(arms), len(seeds)), np.nan)
    for row in rows:
        cell = arms.index(row["arm"]), seeds.index(int(row["seed"]))
        accuracies[cell], seconds[cell] = float(row["val_accuracy"]), float(row["seconds"])
    name = path.name.removesuffix(".csv.gz")
    gains = true_gains(to_sample(accuracies), len(arms))
    return RunTable(name, arms, seeds, StudyRuns(accuracies, seconds, gains, STARTS.get(name, 2)))


def true_gains(sample: Sample, arms: int) -> Array:
    """The gain of each arm over the baseline within seeds, from all runs."""
    comparisons = compare(sample, 0)
    return np.array([comparisons[arm].difference if arm in comparisons else 0.0 for arm in range(arms)])
