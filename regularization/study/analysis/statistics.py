"""Statistics of one arm and over images, computed from arrays, without reading or writing files."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from regularization.study.analysis.comparison import ALPHA, Comparison

Floats = Sequence[float] | NDArray[np.floating]
# Bootstrap draws at a time, which bounds the memory.
_CHUNK = 100


def mean_interval(values: Floats, is_fraction: bool = True) -> tuple[float, float]:
    """The 95% t-interval of a mean; NaN for a single value.

    For fractions, it is computed on the logit scale, so that it lies between 0 and 1. An accuracy of 0 or 1 counts as
    half an image among 10,000.
    """
    if len(values) < 2:
        return math.nan, math.nan
    scaled = logit(np.clip(values, 0.5e-4, 1 - 0.5e-4)) if is_fraction else np.asarray(values, dtype=np.float64)
    margin = stats.t.isf(ALPHA / 2, len(scaled) - 1) * np.std(scaled, ddof=1) / math.sqrt(len(scaled))
    low, high = scaled.mean() - margin, scaled.mean() + margin
    return (float(expit(low)), float(expit(high))) if is_fraction else (float(low), float(high))


def image_share(accuracies: Floats, images: int) -> float:
    """The share of the variance between seeds that comes from the size of the validation set, p(1 − p)/N over s².

    At most 1; NaN for a single value or without variance.
    """
    variance = float(np.var(accuracies, ddof=1)) if len(accuracies) > 1 else 0.0
    mean = float(np.mean(accuracies))
    return min(1.0, mean * (1 - mean) / images / variance) if variance > 0 and images else math.nan


def bootstrap(gains: NDArray[np.floating], draws: int = 1000, seed: int = 0) -> Comparison:
    """The mean gain with a percentile interval from a bootstrap that crosses seeds and images (arXiv:0711.1438).

    Seeds and images are drawn with replacement, independently of each other, and all cells of the drawn rows and
    columns count: an image that several seeds have in common is drawn for all of them or for none.

    Args:
        gains: +1 (correct in the first arm only), −1 (in the second only) or 0, ``(seeds, images)``; NaN where the
            image was not validated with this seed.
        draws: Number of bootstrap samples.
        seed: Seed of the random generator.
    """
    generator = np.random.default_rng(seed)
    # Images with the same gains are exchangeable: only how many of each kind are drawn matters.
    kinds, counts = np.unique(np.nan_to_num(gains, nan=2.0).astype(np.int8), axis=1, return_counts=True)
    valid = (kinds != 2).astype(np.float64)
    values = kinds * valid
    means: list[float] = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        images = generator.multinomial(counts.sum(), counts / counts.sum(), size=size)
        seeds = generator.multinomial(len(gains), np.full(len(gains), 1 / len(gains)), size=size)
        totals = ((seeds @ values) * images).sum(axis=1)
        means.extend(totals / np.maximum(((seeds @ valid) * images).sum(axis=1), 1))
    difference = float((values @ counts).sum() / (valid @ counts).sum())
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    below, above = float(np.mean(np.less_equal(means, 0))), float(np.mean(np.greater_equal(means, 0)))
    return Comparison(difference, float(low), float(high), min(1.0, 2 * min(below, above)), float(np.std(means)))
