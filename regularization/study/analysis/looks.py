"""How the error rate of 5% is divided among the looks at a study, so that it holds for all looks together.

An interval at a look has the level 1 − α of that look. By Bonferroni's inequality, all intervals at all looks hold in
95% of studies, regardless of what is trained in between (repeated confidence intervals, Jennison and Turnbull 1989,
JRSS B 51).
"""

import math
from dataclasses import dataclass

from regularization.study.analysis.comparison import ALPHA

# The share of the error rate that the only look of a fixed design spends; the rest is for looks after extensions.
FIXED_SHARE = 0.8
# The α of the looks of ``until: decided``, by the number of seeds that the baseline has at the look. Chosen by
# simulation: most studies with a gain of 0.65 points are decided at 4 to 8 seeds. The rest of 5% is for more seeds.
SCHEDULE = {
    2: 0.002,
    3: 0.008,
    4: 0.008,
    5: 0.007,
    6: 0.006,
    7: 0.005,
    8: 0.004,
    10: 0.003,
    13: 0.002,
    16: 0.0015,
    20: 0.001,
}


@dataclass(frozen=True)
class Look:
    """A look at a study: the results so far are analysed, and a claim may be made.

    Attributes:
        seeds: The number of seeds that the baseline has.
        trials: The number of finished trials.
        alpha: The part of the error rate that the look spends.
        digest: Identifies the arms and seeds of the trials; empty in the record of an older version.
    """

    seeds: int
    trials: int
    alpha: float
    digest: str = ""


def fixed_alpha(index: int) -> float:
    """The α of a look at a fixed design: 4% for the first, and 1%/(k(k+1)) for the k-th extension."""
    return FIXED_SHARE * ALPHA if index == 0 else (1 - FIXED_SHARE) * ALPHA / (index * (index + 1))


def next_look(seeds: int) -> int:
    """The number of seeds at the first look of ``until: decided`` that comes after ``seeds`` seeds."""
    later = [look for look in SCHEDULE if look > seeds]
    if later:
        return later[0]
    look = float(max(SCHEDULE))
    while int(look) <= seeds:
        look *= 1.25
    return int(look)


def last_alpha(seeds: int) -> float:
    """The α that applies to ``until: decided`` at this many seeds of the baseline: that of the last look, or the first.

    >>> last_alpha(9) == scheduled_alpha(8)
    True
    """
    return next((alpha for count in range(seeds, 0, -1) if (alpha := scheduled_alpha(count))), scheduled_alpha(2))


def scheduled_alpha(seeds: int) -> float:
    """The α of the look of ``until: decided`` at this many seeds of the baseline; 0 if no look is due.

    After the schedule, a look follows whenever the seeds have grown by a quarter, with half the α of the one before.
    """
    if seeds <= max(SCHEDULE):
        return SCHEDULE.get(seeds, 0.0)
    alpha, look = (ALPHA - math.fsum(SCHEDULE.values())) / 2, next_look(max(SCHEDULE))
    while look < seeds:
        alpha, look = alpha / 2, next_look(look)
    return alpha if look == seeds else 0.0
