"""Simulates trials: the noise of real trials around given means."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regularization.study.analysis.comparison import Sample

Table = NDArray[np.float64]
# The smallest difference that matters, as a fraction: the default of a study.
RESOLUTION = 0.005


@dataclass
class Simulator:
    """Draws studies.

    Args:
        name: Name of the table of residuals.
        residuals: Residuals of real trials, ``(arms, seeds)``, as fractions; every arm has mean zero.
    """

    name: str
    residuals: Table

    def draw(self, gains: Sequence[float], seeds: int, generator: np.random.Generator) -> Table:
        """Accuracies ``(arms, seeds)`` around the true gains, in points; the first arm is the baseline.

        Blocks are drawn with random signs, and without replacement as far as possible, because a block that is drawn
        twice would underestimate the noise. If there are more arms than in the table, the additional arms share the
        effects of the seeds, with residuals of other seeds.
        """
        arms, blocks = self.residuals.shape
        # Corrects for the degrees of freedom that are lost by centring.
        inflated = self.residuals * np.sqrt(blocks / (blocks - 1))
        common = inflated.mean(axis=0)
        columns = _blocks(seeds, blocks, generator)
        signs = generator.choice([-1, 1], size=seeds)
        noise = np.empty((len(gains), seeds))
        for index in range(len(gains)):
            row = inflated[index % arms]
            other = (row - common)[_blocks(seeds, blocks, generator)] * generator.choice([-1, 1], size=seeds)
            noise[index] = row[columns] * signs if index < arms else common[columns] * signs + other
        result: Table = 0.7 + np.array(gains)[:, None] / 100 + noise
        return result


def _blocks(count: int, blocks: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Indices of ``count`` blocks; a block is used again only after all others have been used."""
    passes = -(-count // blocks)
    return np.concatenate([generator.permutation(blocks) for _ in range(passes)])[:count]


def to_sample(table: Table) -> Sample:
    """The trials of a table ``(arms, seeds)``; NaN where a trial was not run."""
    arms, seeds = np.nonzero(np.isfinite(table))
    return Sample(table[arms, seeds], arms, seeds)


def load(path: Path) -> Simulator:
    """The residuals of a table of trials; seeds that an arm lacks are left out."""
    with path.open(newline="") as file:
        rows = [(row["arm"], int(row["seed"]), float(row["accuracy"])) for row in csv.DictReader(file)]
    arms = list(dict.fromkeys(arm for arm, _, _ in rows))
    values = {(arm, seed): accuracy for arm, seed, accuracy in rows}
    seeds = sorted({seed for _, seed, _ in rows if all((arm, seed) in values for arm in arms)})
    table = np.array([[values[arm, seed] for seed in seeds] for arm in arms])
    return Simulator(path.stem, table - table.mean(axis=1, keepdims=True))
