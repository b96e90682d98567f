"""Arms compared with a baseline within seeds: a two-way model, seed and arm, with a variance for each arm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from regularization.models.objective import COLLAPSE
from regularization.study.analysis.dunnett import adjusted_p, critical_value

Array = NDArray[np.float64]
# The level of all intervals is 1 − ALPHA.
ALPHA = 0.05
# The weight of the pooled variance in the variance of an arm. At a weight of 1, one arm with three times the spread of
# the others makes 13% false claims instead of 5%; at 0, three seeds per arm show nothing. Chosen by simulation.
POOLED_WEIGHT = 0.25
# An arm leaves the pool if its variance is larger than that of the others at this level, or if it has collapsed: such
# networks no longer share the effects of seeds with the others.
OUTLIER_LEVEL = 0.001
# Variances below this value are rounding errors.
TINY = 1e-18


@dataclass(frozen=True)
class Comparison:
    """The difference of two means with its confidence interval and p value.

    Attributes:
        difference: Mean of the arm minus mean of the baseline.
        low: Lower end of the simultaneous confidence interval; NaN without an estimate of the variance.
        high: Upper end.
        p: Two-sided p value, adjusted like the interval: below ``ALPHA`` exactly where the interval excludes 0.
        standard_error: Of the difference; NaN without an estimate of the variance.
    """

    difference: float
    low: float
    high: float
    p: float
    standard_error: float


@dataclass(frozen=True)
class Sample:
    """One measured value per trial.

    Attributes:
        values: ``(n,)``.
        arms: Index of the arm of each trial, int ``(n,)``.
        seeds: Seed of each trial, int ``(n,)``. Trials with the same seed are compared with each other.
        collapse: An arm has collapsed if its mean is lower than that of the baseline by more than this.
    """

    values: Array
    arms: NDArray[np.int64]
    seeds: NDArray[np.int64]
    collapse: float = COLLAPSE

    def select(self, keep: NDArray[np.bool_]) -> "Sample":
        """The trials where ``keep`` is True."""
        return Sample(self.values[keep], self.arms[keep], self.seeds[keep], self.collapse)


@dataclass(frozen=True)
class _Fit:
    """Least squares of ``values = arm + seed + noise``, with one variance per arm.

    Attributes:
        coefficients: What each trial contributes to the estimate of each arm, ``(A, n)``.
        estimates: The arms' effects, up to a common constant, ``(A,)``.
        pooled: The pooled residual variance.
        df: Its degrees of freedom.
        own: An unbiased estimate of each arm's variance, ``(A,)``.
        own_df: Its degrees of freedom, ``(A,)``; 0 where it has no estimate of its own.
    """

    coefficients: Array
    estimates: Array
    pooled: float
    df: int
    own: Array
    own_df: Array


def compare(sample: Sample, baseline: int, alpha: float = ALPHA, blocked: bool = True) -> dict[int, Comparison]:
    """Compares every arm with the baseline by simultaneous confidence intervals.

    The model is y = arm + seed + noise: a seed gives all arms the same split, initialization and order, so that its
    effect cancels in the differences. Arms need not have the same seeds. The variance of an arm is ¼ of the pooled one
    plus ¾ of its own (a moment estimate from its residuals); degrees of freedom are Satterthwaite's (1946, Biometrics
    Bulletin 2). Intervals and p values are Dunnett's: all intervals together hold in 95% of studies.

    Arms whose variance is far larger than that of the others, or that have collapsed, are left out of the model
    and compared in pairs of equal seeds, with Bonferroni's correction. An arm with one trial has no interval.

    Args:
        sample: The values of all arms.
        baseline: The arm to compare with.
        alpha: Intervals have the simultaneous level 1 − ``alpha``.
        blocked: Whether trials with the same seed are comparable; otherwise the seeds are ignored.

    Returns:
        The comparison of each arm except the baseline, by the index of the arm.
    """
    others = [arm for arm in np.unique(sample.arms).tolist() if arm != baseline]
    pool = _pool(sample, baseline, blocked)
    result = {}
    fit = _fit(sample.select(np.isin(sample.arms, pool)), pool, blocked)
    for arm in others:
        if arm in pool:
            result[arm] = _contrast(sample, fit, pool, arm, baseline, len(others), alpha)
        else:
            result[arm] = _compare_in_pairs(sample, arm, baseline, len(others), alpha, blocked)
    return {arm: result[arm] for arm in others}


def _fit(sample: Sample, arms: list[int], blocked: bool) -> _Fit:
    """Fits the model; the variances come from the expectation of the squared residuals, Σⱼ Mᵢⱼ²·σⱼ²."""
    in_arm = (sample.arms[:, None] == np.array(arms)).astype(float)
    columns = [in_arm]
    if blocked:
        columns.append((sample.seeds[:, None] == np.unique(sample.seeds)).astype(float))
    design = np.concatenate(columns, axis=1)
    inverse = np.linalg.pinv(design)
    residual_maker = np.eye(len(design)) - design @ inverse
    squares = (residual_maker @ sample.values) ** 2
    df = len(design) - int(np.linalg.matrix_rank(design))
    own_df = in_arm.T @ np.diag(residual_maker)
    own = np.linalg.pinv(in_arm.T @ residual_maker**2 @ in_arm) @ (in_arm.T @ squares)
    # With two arms in blocks, only the sum of their variances is known.
    own_df = np.where(own_df > 0.4, own_df, 0.0) if not (blocked and len(arms) == 2) else 0.0 * own_df
    pooled = float(squares.sum() / df) if df else float("nan")
    return _Fit(inverse[: len(arms)], inverse[: len(arms)] @ sample.values, pooled, df, np.maximum(own, 0.0), own_df)


def _contrast(
    sample: Sample, fit: _Fit, pool: list[int], arm: int, baseline: int, count: int, alpha: float
) -> Comparison:
    """The comparison of an arm of the model."""
    index, reference = pool.index(arm), pool.index(baseline)
    difference = float(fit.estimates[index] - fit.estimates[reference])
    arms = sample.arms[np.isin(sample.arms, pool)]
    weights = fit.coefficients[index] - fit.coefficients[reference]
    if not np.isclose(weights[arms == arm].sum(), 1):
        # The two arms have no seed in common, and no chain of other arms with common seeds connects them.
        difference = float(sample.values[sample.arms == arm].mean() - sample.values[sample.arms == baseline].mean())
        return Comparison(difference, np.nan, np.nan, np.nan, np.nan)
    # An arm with one trial has no variance of its own, and that of the other arms is not used instead: chosen by
    # simulation, see docs/studies.md. It is used for the baseline, which has the most trials.
    if np.sum(arms == arm) < 2 or not fit.df or not fit.pooled > TINY:
        return Comparison(difference, np.nan, np.nan, np.nan, np.nan)
    shares = np.array([(weights[arms == other] ** 2).sum() for other in pool])
    pooled_weight = np.where(fit.own_df > 0, POOLED_WEIGHT, 1.0)
    parts = shares * (pooled_weight * fit.pooled + (1 - pooled_weight) * fit.own)
    variance = float(parts.sum())
    # The variance of each estimate is 2v²/df. The mixture replaces the arm's own v, whose estimate may be near zero.
    pooled, own = (shares * pooled_weight * fit.pooled).sum(), (1 - pooled_weight) * parts
    spread = pooled**2 / fit.df + (own**2 / np.maximum(fit.own_df, 1e-9)).sum()
    df = min(float(fit.df), variance**2 / spread)
    loading = float(np.sqrt(parts[reference] / variance))
    return _simultaneous(difference, variance**0.5, df, loading, count, alpha)


def _simultaneous(
    difference: float, standard_error: float, df: float, loading: float, count: int, alpha: float
) -> Comparison:
    """Dunnett's interval and p; p is multiplied by ``ALPHA``/``alpha`` to account for the other looks at the study."""
    # Rounded, so that few different critical values have to be computed.
    loading, df = min(round(loading, 2), 0.99), max(round(df, 1), 0.5)
    margin = critical_value(alpha, count, df, loading) * standard_error
    p = adjusted_p(difference / standard_error, count, df, loading) * ALPHA / alpha
    return Comparison(difference, difference - margin, difference + margin, min(1.0, p), standard_error)


def _compare_in_pairs(sample: Sample, arm: int, baseline: int, count: int, alpha: float, blocked: bool) -> Comparison:
    """Student's t test on the differences within seeds, or Welch's if seeds are ignored; Bonferroni correction."""
    first, second = (sample.select(sample.arms == index) for index in (arm, baseline))
    difference = float(first.values.mean() - second.values.mean())
    if blocked:
        common = np.intersect1d(first.seeds, second.seeds)
        means = [np.array([part.values[part.seeds == seed].mean() for seed in common]) for part in (first, second)]
        difference = float((means[0] - means[1]).mean()) if len(common) else difference
        variances, sizes = [_variance(means[0] - means[1])], [len(common)]
    else:
        variances, sizes = [_variance(part.values) for part in (first, second)], [len(first.values), len(second.values)]
    variance = sum(variances)
    if not variance > TINY:
        return Comparison(difference, np.nan, np.nan, np.nan, np.nan)
    df = variance**2 / sum(part**2 / (size - 1) for part, size in zip(variances, sizes, strict=True))
    margin = float(stats.t.isf(alpha / count / 2, df)) * variance**0.5
    p = 2 * float(stats.t.sf(abs(difference) / variance**0.5, df)) * count * ALPHA / alpha
    return Comparison(difference, difference - margin, difference + margin, min(1.0, p), variance**0.5)


def _variance(values: Array) -> float:
    """Variance of a mean; NaN for a single value."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else float("nan")


def _pool(sample: Sample, baseline: int, blocked: bool) -> list[int]:
    """The arms that share a variance and seed effects: all but those that collapsed or vary far more than the rest."""
    arms = np.unique(sample.arms).tolist()
    means = {arm: sample.values[sample.arms == arm].mean() for arm in arms}
    pool = [arm for arm in arms if means[arm] > means[baseline] - sample.collapse]
    while len(pool) > 2:
        fit = _fit(sample.select(np.isin(sample.arms, pool)), pool, blocked)
        ratios = np.where(fit.own_df > 0, fit.own, -1.0)
        ratios[pool.index(baseline)] = -1.0
        widest = pool[int(ratios.argmax())]
        rest = [arm for arm in pool if arm != widest]
        others = _fit(sample.select(np.isin(sample.arms, rest)), rest, blocked)
        df = float(fit.own_df[pool.index(widest)])
        if not others.df or not others.pooled > TINY or df <= 0:
            break
        if stats.f.sf(float(ratios.max()) / others.pooled, df, others.df) * len(pool) > OUTLIER_LEVEL:
            break
        pool = rest
    return pool
