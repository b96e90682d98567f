"""Verdicts: what the interval of an arm says about it, and what all of them say about the study."""

import math
from collections.abc import Iterable
from enum import StrEnum

from regularization.study.analysis.comparison import Comparison


class Verdict(StrEnum):
    """What the simultaneous interval of an arm's gain over the baseline shows."""

    HELPS = "helps"
    HURTS = "hurts"
    NO_DIFFERENCE = "no difference that matters"
    UNDECIDED = "undecided"
    # Far below the baseline, but with too few seeds for an interval that excludes 0: this also counts as undecided.
    COLLAPSES = "collapses"


# Verdicts that more seeds may change.
OPEN = (Verdict.UNDECIDED, Verdict.COLLAPSES)


class Answer(StrEnum):
    """What a study shows: an arm helps; none helps by more than the resolution; or neither yet."""

    HELPS = "helps"
    NONE_HELPS = "none helps"
    UNDECIDED = "undecided"


def judge_arm(comparison: Comparison, resolution: float, collapse: float = math.inf) -> Verdict:
    """The verdict on one arm: the interval lies above 0, below 0, inside ± ``resolution``, or none of these.

    Args:
        comparison: The comparison with the baseline.
        resolution: The smallest difference that matters.
        collapse: An undecided arm that loses more than this has collapsed.
    """
    if comparison.low > 0:
        return Verdict.HELPS
    if comparison.high < 0:
        return Verdict.HURTS
    if comparison.low > -resolution and comparison.high < resolution:
        return Verdict.NO_DIFFERENCE
    return Verdict.COLLAPSES if comparison.difference < -collapse else Verdict.UNDECIDED


def judge_study(comparisons: Iterable[Comparison], resolution: float) -> Answer:
    """The answer: undecided unless an arm helps, or every interval ends below ``resolution``."""
    comparisons = list(comparisons)
    if any(comparison.low > 0 for comparison in comparisons):
        return Answer.HELPS
    # A missing interval is NaN, for which the comparison is False.
    excluded = bool(comparisons) and all(comparison.high < resolution for comparison in comparisons)
    return Answer.NONE_HELPS if excluded else Answer.UNDECIDED
