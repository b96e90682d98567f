"""Planning and correcting: the gain on seeds that did not choose the arm, and the seeds that would decide."""

import math

import numpy as np
from scipy import stats

from regularization.study.analysis.comparison import Sample
from regularization.study.analysis.dunnett import critical_value

POWER = 0.8
MAX_SEEDS = 1000


def held_out_gain(sample: Sample, baseline: int) -> float:
    """The gain of the chosen arm over the baseline, on seeds that did not choose it.

    For every seed, the arm with the largest mean difference within the *other* seeds is chosen and its difference in
    this seed is taken; the result is the mean over seeds. The gain of the arm that looks best is too high on average,
    because chance has helped to choose it; this one is not. NaN if fewer than two seeds can be used.
    """
    seeds = np.unique(sample.seeds[sample.arms == baseline])
    arms = [arm for arm in np.unique(sample.arms).tolist() if arm != baseline]
    table = np.full((len(arms), len(seeds)), math.nan)
    for column, seed in enumerate(seeds):
        own = sample.seeds == seed
        reference = sample.values[own & (sample.arms == baseline)].mean()
        for row, arm in enumerate(arms):
            values = sample.values[own & (sample.arms == arm)]
            table[row, column] = values.mean() - reference if len(values) else math.nan
    gains = []
    for column in range(len(seeds)):
        others = np.delete(table, column, axis=1)
        counts = np.isfinite(others).sum(axis=1)
        means = np.where(counts > 0, np.nansum(others, axis=1) / np.maximum(counts, 1), -math.inf)
        gains.append(table[int(means.argmax()), column] if np.isfinite(means).any() else math.nan)
    usable = [gain for gain in gains if math.isfinite(gain)]
    return float(np.mean(usable)) if len(seeds) > 1 and usable else math.nan


def power(seeds: int, difference: float, std: float, arms: int, alpha: float) -> float:
    """The power of the simultaneous test to show one true difference, with as many seeds in every arm.

    From the noncentral t distribution with noncentrality δ/(σ·√(2/n)) and (n − 1)(A − 1) degrees of freedom.

    Args:
        seeds: Number of seeds n per arm.
        difference: The true difference δ.
        std: Standard deviation σ of the noise within seeds.
        arms: Number of arms A, the baseline included.
        alpha: Level of the simultaneous intervals.
    """
    df = (seeds - 1) * (arms - 1)
    if df < 1:
        return 0.0
    noncentrality = abs(difference) / (std * math.sqrt(2 / seeds))
    critical = critical_value(alpha, arms - 1, float(df))
    if noncentrality > critical + 10:
        return 1.0  # SciPy's series does not converge here.
    return float(stats.nct.sf(critical, df, noncentrality))


def seeds_needed(difference: float, std: float, arms: int, alpha: float, at_least: int = 2) -> int | None:
    """The smallest number of seeds per arm, ``at_least`` so many, that gives a power of 80%.

    Returns:
        The number; None if 1,000 are not enough, or if ``difference`` or ``std`` is 0 or NaN.
    """
    if not abs(difference) > 0 or not std > 0 or power(MAX_SEEDS, difference, std, arms, alpha) < POWER:
        return None
    low, high = max(at_least, 2) - 1, MAX_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, difference, std, arms, alpha) >= POWER else (middle, high)
    return high
