"""Simulates studies with the residuals of real ones around the means that a scenario sets.

A table of real trials (``residuals/*.csv``: arm, seed, accuracy) gives the noise: seeds are drawn as whole blocks, to
preserve the correlations within seeds and the unequal variances of arms. The analysis is the one that ``sweep`` uses.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from regularization.study.analysis.comparison import ALPHA, Sample, compare
from regularization.study.analysis.gain import held_out_gain
from regularization.study.analysis.looks import fixed_alpha
from regularization.study.analysis.verdicts import Answer, judge_study
from tests.benchmarks.answer.claims import covered, false_claim, wrongly_equal
from tests.benchmarks.answer.replay import play
from tests.benchmarks.answer.simulator import RESOLUTION, Simulator, load, to_sample
from tests.benchmarks.answer.strategies import STRATEGIES
from tests.benchmarks.answer.tables import StudyRuns

FOLDER = Path(__file__).parents[1] / "residuals"
# True gains in points: a curve with a peak, as for λ; no effect; and no effect with three worse arms.
PEAK = [0.0, 0.1, 0.3, 0.65, 0.5, -1.0, -20.0]
NULL = [0.0] * 7
PARTIAL = [0.0, 0.0, 0.0, 0.0, -1.0, -5.0, -30.0]


def run_fixed(simulator: Simulator, gains: Sequence[float], seeds: int, studies: int) -> dict[str, float]:
    """The error rates of a design with the same seeds for every arm, and the same design extended by two seeds."""
    generator, counts, errors = np.random.default_rng(0), Counter[str](), []
    truth = np.array(gains) / 100
    for _ in range(studies):
        full = simulator.draw(gains, seeds + 2, generator)
        claims: list[bool] = []
        for look, count in enumerate((seeds, seeds + 2)):
            sample = to_sample(full[:, :count])
            comparisons = compare(sample, 0, fixed_alpha(look))
            claims.append(false_claim(comparisons, truth))
            if look == 0:
                counts["helps"] += judge_study(comparisons.values(), RESOLUTION) == Answer.HELPS
                counts["covered"] += covered(comparisons, truth)
                counts["inconsistent"] += any((c.p < ALPHA) != (c.low > 0 or c.high < 0) for c in comparisons.values())
                counts["wrongly equal"] += wrongly_equal(comparisons, truth)
                errors.append(held_out_gain(sample, 0) - _true_gain(sample, gains))
        counts["false claim"] += claims[0]
        counts["false claim, extended"] += any(claims)
    return {name: counts[name] / studies for name in counts} | {"bias, points": 100 * float(np.nanmean(errors))}


def run_strategy(
    simulator: Simulator, strategy: str, gains: Sequence[float], studies: int, seeds: int
) -> dict[str, float]:
    """How studies of at most ``seeds`` seeds end with a strategy, and after how many trials."""
    generator, counts, trials, errors = np.random.default_rng(1), Counter[str](), [], []
    truth = np.array(gains) / 100
    for index in range(studies):
        accuracies = simulator.draw(gains, seeds, generator)
        runs = StudyRuns(accuracies, np.ones_like(accuracies), truth)
        outcome = play(runs, STRATEGIES[strategy](runs.available, runs.start, index), workers=1)
        counts[outcome.answer] += 1
        counts["false claim"] += false_claim(outcome.comparisons, truth)
        counts["close to the best"] += outcome.close(truth)
        trials.append(len(outcome.runs))
        stopped = strategy.startswith("until: decided")
        errors.append(held_out_gain(outcome.sample, 0, stopped) - _true_gain(outcome.sample, gains))
    shares = {name: counts[name] / studies for name in (*Answer, "false claim", "close to the best")}
    return shares | {"median trials": float(np.median(trials)), "bias, points": 100 * float(np.nanmean(errors))}


def _true_gain(sample: Sample, gains: Sequence[float]) -> float:
    """The true gain of the arm that looks best."""
    comparisons = compare(sample, 0)
    best = max(comparisons, key=lambda arm: comparisons[arm].difference)
    return gains[best] / 100


def show(title: str, function: Callable[[], dict[str, float]]) -> None:
    """Prints one row of the results."""
    print(f"{title}: " + ", ".join(f"{name} {value:.3g}" for name, value in function().items()), flush=True)


def show_all(studies: int, simulators: Sequence[Simulator] = ()) -> None:
    """Prints all scenarios with the residuals of these tables, or else of those in ``residuals``."""
    for simulator in simulators or map(load, sorted(FOLDER.glob("*.csv"))):
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
            for strategy in STRATEGIES:
                # The other strategies are shown for comparison, with fewer studies and with the seeds of a grid.
                own = (studies, 20) if strategy.startswith("until: decided") else (studies // 10, 10)
                show(f"{strategy}, {name}", lambda: run_strategy(simulator, strategy, gains, *own))  # noqa: B023
