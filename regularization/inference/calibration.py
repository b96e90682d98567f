"""Calibration: whether predictions with a confidence of 90% are correct in 90% of cases."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15  # the same number as for the calibration error that is logged


@dataclass(frozen=True)
class ReliabilityBins:
    """Predictions in B bins of equal width by their confidence, from 0 to 1.

    Attributes:
        images: Number of predictions per bin, ``(B,)``.
        confidence: Their mean confidence, ``(B,)``, NaN for an empty bin.
        accuracy: Fraction of them that is correct, ``(B,)``, NaN for an empty bin.
    """

    images: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability_bins(confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = BINS) -> ReliabilityBins:
    """Mean confidence and accuracy per bin of confidence, as in a reliability diagram (arXiv:1706.04599).

    The calibration error that is logged is the mean distance between the two, weighted by the bins' sizes. It has one
    more bin, for confidences of exactly 1.

    Args:
        confidence: Probability of each predicted class, ``(N,)``.
        correct: Whether each prediction is correct, ``(N,)``.
        bins: Number of bins. A bin includes its lower edge; the last one includes both edges.
    """
    edges = np.linspace(0, 1, bins + 1)
    indices = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    images = np.bincount(indices, minlength=bins)
    divisor = np.where(images > 0, images, np.nan)
    return ReliabilityBins(
        images=images,
        confidence=np.bincount(indices, weights=confidence, minlength=bins) / divisor,
        accuracy=np.bincount(indices, weights=correct, minlength=bins) / divisor,
    )
