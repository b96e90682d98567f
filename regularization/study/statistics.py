"""The statistics of a study, over seeds and over images; everything on numbers in, numbers out."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.special import log_softmax, softmax
from torchmetrics.functional.classification import binary_calibration_error

Floats = Sequence[float] | NDArray[np.floating]
Bools = NDArray[np.bool_]
ALPHA = 0.05
SPREAD = 1e-12  # a standard error below it is none
POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """A difference of two means with its interval and two-sided p value.

    Attributes:
        difference: Mean of the first minus mean of the second.
        low: Lower end of the interval.
        high: Upper end.
        p: Probability of a difference at least as large if there were none.
        correlation: Of the pairs, where they were paired.
    """

    difference: float
    low: float
    high: float
    p: float
    correlation: float | None = None


def standard_error(values: Floats) -> float:
    """Of the mean: s/√n; NaN for a single value."""
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else float("nan")


def half_width(values: Floats, alpha: float = ALPHA) -> float:
    """Half of the mean's t-interval at level 1 − ``alpha``; NaN for a single value."""
    return float(stats.t.ppf(1 - alpha / 2, max(1, len(values) - 1)) * standard_error(values))


def welch(first: Floats, second: Floats, alpha: float = ALPHA) -> Comparison:
    """Difference of the means of two samples whose variances may differ (Welch 1947, Biometrika 34).

    Interval and p are unknown (NaN) with a single value in one, or where neither varies: that a handful of counts
    happen to be equal is no sign of certainty.
    """
    difference = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2 or standard_error(first) + standard_error(second) < SPREAD:
        return Comparison(difference, math.nan, math.nan, math.nan)
    with warnings.catch_warnings():
        # One of the two may hardly vary: its share of the variance is then small, however imprecise.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(first, second, equal_var=False)
    interval = test.confidence_interval(1 - alpha)
    return Comparison(difference, float(interval.low), float(interval.high), float(test.pvalue))


def paired(first: Floats, second: Floats, alpha: float = ALPHA) -> Comparison:
    """Mean of the differences pair by pair, with Student's interval and test, and the pairs' correlation.

    Interval and p are unknown (NaN) with a single pair, or where all differences are the same.
    """
    differences = np.asarray(first) - np.asarray(second)
    mean, half = float(differences.mean()), half_width(differences, alpha)
    if len(differences) < 2 or standard_error(differences) < SPREAD:
        return Comparison(mean, math.nan, math.nan, math.nan)
    varies = bool(np.std(first) > 0 and np.std(second) > 0)
    correlation = float(np.corrcoef(first, second)[0, 1]) if varies else math.nan
    return Comparison(mean, mean - half, mean + half, float(stats.ttest_1samp(differences, 0).pvalue), correlation)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for how many there are, so that one false claim among all is as rare (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: (math.isnan(p_values[place]), p_values[place]))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = math.nan if math.isnan(p_values[place]) else highest
    return adjusted


def power(seeds: int, difference: float, deviation: float, alpha: float = ALPHA) -> float:
    """Chance that a two-sided t-test at level ``alpha`` between two arms of ``seeds`` each shows a true ``difference``.

    From the noncentral t distribution with 2n − 2 degrees of freedom and noncentrality δ/(σ√(2/n)).
    """
    freedom = 2 * seeds - 2
    if freedom < 1:
        return 0.0
    shift = abs(difference) / (deviation * math.sqrt(2 / seeds))
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    if shift > critical + 10:
        return 1.0  # where SciPy's series no longer converges
    # The other tail is below its precision, NaN, for large shifts.
    return float(stats.nct.sf(critical, freedom, shift) + np.nan_to_num(stats.nct.cdf(-critical, freedom, shift)))


def seeds_needed(difference: float, deviation: float, alpha: float = ALPHA, most: int = 1000) -> int | None:
    """The smallest number of seeds an arm with power of at least 80%; None when ``most`` are too few, or unknown."""
    if not abs(difference) > 0 or not deviation > 0 or power(most, difference, deviation, alpha) < POWER:
        return None
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(middle, difference, deviation, alpha) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def pooled_deviation(samples: Sequence[Floats]) -> float:
    """√(Σ(nᵢ−1)sᵢ² / Σ(nᵢ−1)): the standard deviation within samples, whatever their means."""
    freedom = [len(sample) - 1 for sample in samples]
    squares = [count * float(np.var(sample, ddof=1)) for count, sample in zip(freedom, samples, strict=True) if count]
    return math.sqrt(sum(squares) / sum(freedom)) if sum(freedom) else math.nan


def within_one_standard_error(samples: Sequence[Floats]) -> list[int]:
    """Which samples' means lie within one standard error of the best one's (Breiman et al. 1984, section 3.4.3).

    With single values, only those that equal the best.
    """
    means = [float(np.mean(sample)) for sample in samples]
    best = int(np.argmax(means))
    error = standard_error(samples[best])
    least = means[best] - (0.0 if math.isnan(error) else error)
    return [place for place, mean in enumerate(means) if mean >= least]


def mcnemar(fixed: int, broken: int) -> float:
    """The exact test of whether as many answers turn right as turn wrong (McNemar 1947): p of a fair coin."""
    return float(stats.binomtest(fixed, fixed + broken, 0.5).pvalue) if fixed + broken else 1.0


def bootstrap(first: Sequence[Bools], second: Sequence[Bools], draws: int = 2000, seed: int = 0) -> Comparison:
    """Difference in accuracy, paired by image, with a percentile interval over seeds and images drawn again.

    Args:
        first: For each seed, which images were right, bool ``(N,)``.
        second: The same for the other arm, the same images.
        draws: How often both are drawn.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    gains = [one.astype(np.int8) - other for one, other in zip(first, second, strict=True)]
    means = np.empty(draws)
    for draw in range(draws):
        chosen = generator.integers(len(gains), size=len(gains))
        # How often each of a seed's images is drawn does not matter, only how many gains and losses are.
        means[draw] = np.mean([_redrawn(gains[place], generator) for place in chosen])
    difference = float(np.mean([gain.mean() for gain in gains]))
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    below, above = float(np.mean(means <= 0)), float(np.mean(means >= 0))
    return Comparison(difference, float(low), float(high), min(1.0, 2 * min(below, above)))


def _redrawn(gains: NDArray[np.int8], generator: np.random.Generator) -> float:
    shares = [float(np.mean(gains == 1)), float(np.mean(gains == -1))]
    better, worse, _ = generator.multinomial(len(gains), [*shares, max(0.0, 1 - sum(shares))])
    return float(better - worse) / len(gains)


def negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """Mean of −log p(label), in nats."""
    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def calibration_error(logits: NDArray[np.floating], labels: NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error: mean distance of confidence and accuracy in bins of confidence (arXiv:1706.04599)."""
    confidence = torch.from_numpy(softmax(logits.astype(np.float64), axis=1).max(axis=1))
    right = torch.from_numpy(logits.argmax(axis=1) == labels).long()
    return float(binary_calibration_error(confidence, right, bins))
