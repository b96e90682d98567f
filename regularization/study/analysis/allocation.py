"""Chooses the arm to train next, so that the study is likely to be decided with the fewest trials."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from regularization.study.analysis.comparison import Comparison, Sample, compare
from regularization.study.analysis.dunnett import critical_value

# Degrees of freedom for a rough critical value; the exact one changes with every trial.
TYPICAL_DF = 20.0
# Number of standard errors added to the gains of arms: the arm with the highest sum is trained to show that it helps.
# In simulations, 0.5 to 2 need nearly the same number of trials; with 0, the best arm is missed more often.
OPTIMISM = 1.0


def next_trial(
    sample: Sample, given: Mapping[int, set[int]], baseline: int, seeds: Sequence[int], alpha: float, resolution: float
) -> tuple[int, int] | None:
    """The arm and the seed of the next trial, or None if all have been handed out.

    There are two ways to an answer. To show that arm a with the gain d > 0 helps takes about (c·s/d)² seeds, where s is
    the standard deviation of a difference within seeds and c the critical value. To show that no arm helps by more than
    the resolution r takes about (c·s/(r − d))² seeds of every arm whose interval reaches r. The way that takes fewer
    trials is chosen. In the first case, the next trial is one of the arm whose gain plus one standard error is highest.
    The arm that is then shown to help is likely one of the best, which is not certain for the arm that is closest to
    showing it. In the second case, the next trial is one of the arm whose interval has the highest upper end.

    An arm only gets seeds that the baseline has; if it has all of them, the baseline gets the next seed first.

    Args:
        sample: The finished trials.
        given: The seeds that are finished or running, of each arm that may get more seeds, and of the baseline.
        baseline: The arm that the others are compared with.
        seeds: All seeds that may be used, in their order.
        alpha: Level of the intervals.
        resolution: The smallest difference that matters, as a fraction.
    """
    order = _promising(sample, given, baseline, alpha, resolution)
    for arm in order:
        open_seeds = [seed for seed in seeds if seed in given[baseline] and seed not in given[arm]]
        if open_seeds:
            return arm, open_seeds[0]
        fresh = [seed for seed in seeds if seed not in given[baseline]]
        if fresh:
            return baseline, fresh[0]
    return None


def _promising(
    sample: Sample, given: Mapping[int, set[int]], baseline: int, alpha: float, resolution: float
) -> list[int]:
    """The arms that may decide, the most promising one first."""
    compared = compare(sample, baseline, alpha) if np.any(sample.arms == baseline) else {}
    comparisons = {arm: item for arm, item in compared.items() if arm in given}
    counts = {arm: max(1, int(np.sum(sample.arms == arm))) for arm in comparisons}
    stds = [item.standard_error * math.sqrt(counts[arm]) for arm, item in comparisons.items()]
    if not np.isfinite(stds).any():
        gains = {arm: item.difference for arm, item in comparisons.items()}
        arms = [arm for arm in given if arm != baseline]
        return sorted(arms, key=lambda arm: (len(given[arm]), -gains.get(arm, math.inf)))
    std = float(np.nanmedian(stds))
    reach = critical_value(alpha, len(given) - 1, TYPICAL_DF) * std
    helping = min(
        _cost_of_helping(item, reach, len(given[arm]), len(given[baseline])) for arm, item in comparisons.items()
    )
    ruling_out = _cost_of_ruling_out(comparisons, reach, given, baseline, resolution)
    leader, *_ = _highest(comparisons, given, OPTIMISM * std)
    highest = _highest(comparisons, given, reach)
    # A missing interval, such as that of an arm with one seed, is NaN.
    open_arms = [arm for arm in highest if not comparisons[arm].high < resolution] or highest
    return [leader, *open_arms] if helping <= ruling_out else open_arms


def _highest(comparisons: Mapping[int, Comparison], given: Mapping[int, set[int]], margin: float) -> list[int]:
    """The arms by their gain plus ``margin``/√n, the highest first; n includes the running trials."""
    return sorted(comparisons, key=lambda arm: -comparisons[arm].difference - margin / math.sqrt(len(given[arm])))


def _cost_of_helping(item: Comparison, reach: float, own: int, baseline: int) -> float:
    """Further trials, of the arm and the baseline, that are likely to show that the arm helps."""
    if item.difference <= 0:
        return math.inf
    needed = (reach / item.difference) ** 2
    return max(1.0, needed - own) + max(0.0, needed - baseline)


def _cost_of_ruling_out(
    comparisons: Mapping[int, Comparison], reach: float, given: Mapping[int, set[int]], baseline: int, resolution: float
) -> float:
    """Further trials, of all arms and the baseline, that are likely to show that none helps by the resolution."""
    total, most = 0.0, 0.0
    for arm, item in comparisons.items():
        if item.high < resolution:
            continue
        distance = resolution - item.difference
        needed = (reach / distance) ** 2 if distance > 0.02 * resolution else math.inf
        total += max(1.0, needed - len(given[arm]))
        most = max(most, needed)
    return total + max(0.0, most - len(given[baseline]))
