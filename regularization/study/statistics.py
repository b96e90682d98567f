"""Statistics over seeds and over images: numbers in, numbers out, nothing read or written."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import log_softmax, softmax

from regularization.models import metrics

Floats = Sequence[float] | NDArray[np.floating]
Bools = NDArray[np.bool_]
# Significance level of all tests; intervals have the level 1 − ALPHA.
ALPHA = 0.05
# The power that ``seeds_needed`` aims at.
POWER = 0.8
# Samples whose standard error is below this value (rounding errors) count as constant.
MIN_STANDARD_ERROR = 1e-12


@dataclass(frozen=True)
class Comparison:
    """The difference of two means with its confidence interval and p value.

    Attributes:
        difference: Mean of the first sample minus mean of the second.
        low: Lower end of the confidence interval.
        high: Upper end of the confidence interval.
        p: Two-sided p value: the probability of a difference at least as large if the true difference is 0.
        correlation: Correlation of the pairs; None if the samples are not paired.
    """

    difference: float
    low: float
    high: float
    p: float
    correlation: float | None = None


def standard_error(values: Floats) -> float:
    """Standard error of the mean, s/√n; NaN for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")


def ci_half_width(values: Floats, alpha: float = ALPHA) -> float:
    """Half of the width of the mean's t-interval at level 1 − ``alpha``; NaN for a single value."""
    return float(stats.t.ppf(1 - alpha / 2, max(1, len(values) - 1)) * standard_error(values))


def welch(first: Floats, second: Floats, alpha: float = ALPHA) -> Comparison:
    """Compares the means of two independent samples with unequal variances (Welch 1947, Biometrika 34).

    The interval and p are NaN if a sample has a single value or if neither sample varies: equal accuracies in a few
    runs do not show that the variance is zero.
    """
    difference = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2 or standard_error(first) + standard_error(second) < MIN_STANDARD_ERROR:
        return Comparison(difference, math.nan, math.nan, math.nan)
    with warnings.catch_warnings():
        # SciPy warns if one sample is nearly constant. The error of its variance is then negligible in the sum.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(1 - alpha)
    return Comparison(difference, float(interval.low), float(interval.high), float(test.pvalue))


def paired(first: Floats, second: Floats, alpha: float = ALPHA) -> Comparison:
    """Compares the means of two paired samples by Student's t-test on their differences.

    The interval and p are NaN if there is a single pair or if all differences are equal.
    """
    differences = np.asarray(first) - np.asarray(second)
    mean, margin = float(differences.mean()), ci_half_width(differences, alpha)
    if len(differences) < 2 or standard_error(differences) < MIN_STANDARD_ERROR:
        return Comparison(mean, math.nan, math.nan, math.nan)
    both_vary = bool(np.std(first) > 0 and np.std(second) > 0)
    correlation = float(np.corrcoef(first, second)[0, 1]) if both_vary else math.nan
    return Comparison(mean, mean - margin, mean + margin, float(stats.ttest_1samp(differences, 0).pvalue), correlation)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p values for multiple comparisons (Holm 1979, Scandinavian Journal of Statistics 6).

    If every adjusted p below α counts as significant, the probability of one or more false positives is at most α.
    NaN stays NaN and counts as a comparison.
    """
    order = sorted(range(len(p_values)), key=lambda index: (math.isnan(p_values[index]), p_values[index]))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = math.nan if math.isnan(p_values[index]) else highest
    return adjusted


def power(seeds: int, difference: float, std: float, alpha: float = ALPHA) -> float:
    """Power of the two-sided t-test at level ``alpha`` between two arms with ``seeds`` seeds each.

    Computed from the noncentral t distribution with 2n − 2 degrees of freedom and noncentrality δ/(σ√(2/n)).

    Args:
        seeds: Number of seeds n per arm.
        difference: True difference δ of the means.
        std: Standard deviation σ within each arm.
        alpha: Significance level.
    """
    degrees_of_freedom = 2 * seeds - 2
    if degrees_of_freedom < 1:
        return 0.0
    noncentrality = abs(difference) / (std * math.sqrt(2 / seeds))
    critical = stats.t.ppf(1 - alpha / 2, degrees_of_freedom)
    if noncentrality > critical + 10:
        return 1.0  # SciPy's series does not converge here.
    # For a large noncentrality, the lower tail is below SciPy's precision and becomes NaN.
    lower_tail = np.nan_to_num(stats.nct.cdf(-critical, degrees_of_freedom, noncentrality))
    return float(stats.nct.sf(critical, degrees_of_freedom, noncentrality) + lower_tail)


def seeds_needed(difference: float, std: float, alpha: float = ALPHA, max_seeds: int = 1000) -> int | None:
    """The smallest number of seeds per arm that gives a power of at least 80%.

    Returns:
        The number of seeds; None if ``max_seeds`` are not enough, or if ``difference`` or ``std`` is 0 or NaN.
    """
    if not abs(difference) > 0 or not std > 0 or power(max_seeds, difference, std, alpha) < POWER:
        return None
    low, high = 1, max_seeds
    while high - low > 1:
        middle = (low + high) // 2
        sufficient = power(middle, difference, std, alpha) >= POWER
        low, high = (low, middle) if sufficient else (middle, high)
    return high


def pooled_std(samples: Sequence[Floats]) -> float:
    """Pooled standard deviation within samples, √(Σ(nᵢ−1)sᵢ² / Σ(nᵢ−1)); NaN if each has a single value."""
    degrees_of_freedom = [len(sample) - 1 for sample in samples]
    squares = [
        degrees * float(np.var(sample, ddof=1))
        for degrees, sample in zip(degrees_of_freedom, samples, strict=True)
        if degrees
    ]
    return math.sqrt(sum(squares) / sum(degrees_of_freedom)) if sum(degrees_of_freedom) else math.nan


def within_one_standard_error(samples: Sequence[Floats]) -> list[int]:
    """Indices of the samples whose mean lies within one standard error of the best mean.

    This is the one-standard-error rule of Breiman et al. (1984), Classification and Regression Trees, section 3.4.3.
    If the best sample has a single value, only means that equal it count.
    """
    means = [float(np.mean(sample)) for sample in samples]
    best = int(np.argmax(means))
    error = standard_error(samples[best])
    threshold = means[best] - (0.0 if math.isnan(error) else error)
    return [index for index, mean in enumerate(means) if mean >= threshold]


def mcnemar(fixed: int, broken: int) -> float:
    """The p value of McNemar's exact test (McNemar 1947): predictions are as often fixed as broken."""
    return float(stats.binomtest(fixed, fixed + broken, 0.5).pvalue) if fixed + broken else 1.0


def bootstrap(first: Sequence[Bools], second: Sequence[Bools], draws: int = 2000, seed: int = 0) -> Comparison:
    """Compares two accuracies, paired by image, with a percentile interval that resamples seeds and images.

    Args:
        first: For each seed, whether each image was classified correctly, bool ``(N,)``.
        second: The same for the other arm, with the same images.
        draws: Number of bootstrap samples.
        seed: Seed of the random generator.
    """
    generator = np.random.default_rng(seed)
    gains = [
        first_correct.astype(np.int8) - second_correct
        for first_correct, second_correct in zip(first, second, strict=True)
    ]
    means = np.empty(draws)
    for draw in range(draws):
        seed_indices = generator.integers(len(gains), size=len(gains))
        means[draw] = np.mean([_resampled_gain(gains[index], generator) for index in seed_indices])
    difference = float(np.mean([gain.mean() for gain in gains]))
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    below, above = float(np.mean(means <= 0)), float(np.mean(means >= 0))
    return Comparison(difference, float(low), float(high), min(1.0, 2 * min(below, above)))


def _resampled_gain(gains: NDArray[np.int8], generator: np.random.Generator) -> float:
    """The mean gain over N images drawn with replacement; only the counts of +1, −1 and 0 are drawn."""
    shares = [float(np.mean(gains == 1)), float(np.mean(gains == -1))]
    better, worse, _ = generator.multinomial(len(gains), [*shares, max(0.0, 1 - sum(shares))])
    return float(better - worse) / len(gains)


def negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean of −log p(label) in nats, from logits ``(N, C)`` and labels ``(N,)``."""
    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def calibration_error(logits: NDArray[np.floating], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error: mean difference of confidence and accuracy over bins (arXiv:1706.04599)."""
    confidence = torch.from_numpy(softmax(logits.astype(np.float64), axis=1).max(axis=1))
    correct = torch.from_numpy(logits.argmax(axis=1) == labels)
    return float(metrics.calibration_error(confidence, correct, bins))
