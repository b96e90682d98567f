"""How often a study answers, and how often it is wrong: simulated studies with the residuals of real ones.

    python -m tests.benchmarks.answer [--studies 2000]

A table of real trials (``residuals/*.csv``: arm, seed, accuracy) gives the noise: seeds are drawn as whole blocks, so
that correlations within seeds and unequal variances of arms are real; the true means are set by the scenario. The
analysis is the one that ``sweep`` uses.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regularization.study.analysis.allocation import next_trial
from regularization.study.analysis.comparison import ALPHA, Comparison, Sample, compare
from regularization.study.analysis.gain import held_out_gain
from regularization.study.analysis.looks import fixed_alpha, next_look, scheduled_alpha
from regularization.study.analysis.verdicts import Answer, Verdict, judge_arm, judge_study
from tests.benchmarks.strategies import STRATEGIES

Table = NDArray[np.float64]
FOLDER = Path(__file__).parent / "residuals"
RESOLUTION = 0.005
# True gains in points: a curve with a peak, as λ has one; nothing; and nothing with two arms that collapse.
PEAK = [0.0, 0.1, 0.3, 0.65, 0.5, -1.0, -20.0]
NULL = [0.0] * 7
PARTIAL = [0.0, 0.0, 0.0, 0.0, -1.0, -5.0, -30.0]


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

        Blocks are drawn without replacement as far as they go, because a block that is drawn twice would show less
        noise than there is, and with random signs. With more arms than the table has, further arms share the effects of
        the seeds, with residuals of other seeds.
        """
        arms, blocks = self.residuals.shape
        # The degrees of freedom that centring took.
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
    """Indices of ``count`` blocks, each used again only when all have been."""
    passes = -(-count // blocks)
    return np.concatenate([generator.permutation(blocks) for _ in range(passes)])[:count]


def to_sample(table: Table) -> Sample:
    """The trials of a table ``(arms, seeds)``; NaN where a trial was not run."""
    arms, seeds = np.nonzero(np.isfinite(table))
    return Sample(table[arms, seeds], arms, seeds)


def run_fixed(simulator: Simulator, gains: Sequence[float], seeds: int, studies: int) -> dict[str, float]:
    """The error rates of a design with the same seeds for every arm, extended once by two seeds where undecided."""
    generator, counts, errors = np.random.default_rng(0), Counter[str](), []
    for _ in range(studies):
        full = simulator.draw(gains, seeds + 2, generator)
        claims: list[bool] = []
        for look, count in enumerate((seeds, seeds + 2)):
            sample = to_sample(full[:, :count])
            comparisons = compare(sample, 0, fixed_alpha(look))
            claims.append(_false_claim(comparisons, gains))
            if look == 0:
                counts["helps"] += judge_study(comparisons.values(), RESOLUTION) == Answer.HELPS
                counts["covered"] += _covered(comparisons, gains)
                counts["inconsistent"] += any((c.p < ALPHA) != (c.low > 0 or c.high < 0) for c in comparisons.values())
                counts["wrongly equal"] += _wrongly_equal(comparisons, gains)
                errors.append(held_out_gain(sample, 0) - _true_gain(sample, gains))
        counts["false claim"] += claims[0]
        counts["false claim, extended"] += any(claims)
    return {name: counts[name] / studies for name in counts} | {"bias, points": 100 * float(np.nanmean(errors))}


def run_until_decided(
    simulator: Simulator, gains: Sequence[float], studies: int, start: int = 2, max_seeds: int = 20
) -> dict[str, float]:
    """How studies with ``until: decided`` end, and after how many trials."""
    generator, counts = np.random.default_rng(1), Counter[str]()
    trials, errors = [], []
    for _ in range(studies):
        full = simulator.draw(gains, max_seeds, generator)
        answer, table, comparisons = decide(full, start)
        counts[answer] += 1
        counts["false claim"] += _false_claim(comparisons, gains)
        trials.append(int(np.isfinite(table).sum()))
        errors.append(held_out_gain(to_sample(table), 0) - _true_gain(to_sample(table), gains))
    shares = {name: counts[name] / studies for name in (*Answer, "false claim")}
    return shares | {"median trials": float(np.median(trials)), "bias, points": 100 * float(np.nanmean(errors))}


def decide(full: Table, start: int) -> tuple[Answer, Table, dict[int, Comparison]]:
    """Plays a study with one worker on the accuracies that its trials would have, ``(arms, seeds)``."""
    arms, seeds = full.shape
    table = np.full_like(full, np.nan)
    table[:, :start] = full[:, :start]
    alpha, seen = scheduled_alpha(next_look(0)), set[int]()
    while True:
        count = int(np.isfinite(table[0]).sum())
        if scheduled_alpha(count) and count not in seen:
            seen.add(count)
            alpha = scheduled_alpha(count)
        comparisons = compare(to_sample(table), 0, alpha)
        answer = judge_study(comparisons.values(), RESOLUTION) if seen else Answer.UNDECIDED
        given = {arm: set(np.flatnonzero(np.isfinite(table[arm])).tolist()) for arm in range(arms)}
        if answer == Answer.UNDECIDED:
            choice = next_trial(to_sample(table), given, 0, range(seeds), alpha, RESOLUTION)
        if answer != Answer.UNDECIDED or choice is None:
            return answer, table, comparisons
        table[choice] = full[choice]


def _false_claim(comparisons: dict[int, Comparison], gains: Sequence[float]) -> bool:
    """Whether an arm is said to help that does not, or to hurt that does not."""
    helps = any(item.low > 0 and gains[arm] <= 0 for arm, item in comparisons.items())
    return helps or any(item.high < 0 and gains[arm] >= 0 for arm, item in comparisons.items())


def _covered(comparisons: dict[int, Comparison], gains: Sequence[float]) -> bool:
    return all(item.low <= gains[arm] / 100 <= item.high for arm, item in comparisons.items())


def _wrongly_equal(comparisons: dict[int, Comparison], gains: Sequence[float]) -> bool:
    """Whether an arm is said not to differ although its true gain is larger than the resolution."""
    equal = [arm for arm, item in comparisons.items() if judge_arm(item, RESOLUTION) == Verdict.NO_DIFFERENCE]
    return any(abs(gains[arm]) > 100 * RESOLUTION for arm in equal)


def _true_gain(sample: Sample, gains: Sequence[float]) -> float:
    """The true gain of the arm that looks best."""
    comparisons = compare(sample, 0)
    best = max(comparisons, key=lambda arm: comparisons[arm].difference)
    return gains[best] / 100


def load(path: Path) -> Simulator:
    """The residuals of a table of trials; arms and seeds that are not complete are left out."""
    with path.open(newline="") as file:
        rows = [(row["arm"], int(row["seed"]), float(row["accuracy"])) for row in csv.DictReader(file)]
    arms = list(dict.fromkeys(arm for arm, _, _ in rows))
    values = {(arm, seed): accuracy for arm, seed, accuracy in rows}
    seeds = sorted({seed for _, seed, _ in rows if all((arm, seed) in values for arm in arms)})
    table = np.array([[values[arm, seed] for seed in seeds] for arm in arms])
    return Simulator(path.stem, table - table.mean(axis=1, keepdims=True))


def show(title: str, function: Callable[[], dict[str, float]]) -> None:
    """Prints one row of the results."""
    print(f"{title}: " + ", ".join(f"{name} {value:.3g}" for name, value in function().items()), flush=True)


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    for simulator in map(load, sorted(FOLDER.glob("*.csv"))):
        print("\n{}: residuals of {} arms × {} seeds".format(simulator.name, *simulator.residuals.shape))
        for arms, seeds in ((2, 2), (2, 5), (3, 4), (5, 3), (7, 2), (7, 3), (7, 10), (12, 2), (12, 5)):
            title = f"fixed, {arms} arms × {seeds} seeds"
            show(f"{title}, null", lambda: run_fixed(simulator, [0.0] * arms, seeds, studies))  # noqa: B023
        for name, gains in (
            ("partial null", PARTIAL),
            ("one arm +1.05", [0, 0, 0, 1.05, 0, 0, 0]),
            ("+0.75", [0, *[0.75] * 6]),
        ):
            show(f"fixed, 7 arms × 3 seeds, {name}", lambda: run_fixed(simulator, gains, 3, studies))  # noqa: B023
        for name, gains in (("peak +0.65", PEAK), ("null", NULL), ("partial null", PARTIAL)):
            show(f"until: decided, {name}", lambda: run_until_decided(simulator, gains, studies))  # noqa: B023
        for name, strategy in STRATEGIES.items():
            show(f"{name}, peak +0.65", lambda: strategy(simulator.draw, PEAK, studies // 10))  # noqa: B023


if __name__ == "__main__":
    main()
