"""Which claims about arms the true gains contradict."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from regularization.study.analysis.comparison import Comparison
from regularization.study.analysis.verdicts import Verdict, judge_arm
from tests.benchmarks.answer.simulator import RESOLUTION

Array = NDArray[np.float64]
Comparisons = Mapping[int, Comparison]


def false_claim(comparisons: Comparisons, gains: Array) -> bool:
    """Whether an arm is claimed to help or to hurt although it does not; ``gains`` are fractions, ``(arms,)``."""
    helps = any(item.low > 0 and gains[arm] <= 0 for arm, item in comparisons.items())
    return helps or any(item.high < 0 and gains[arm] >= 0 for arm, item in comparisons.items())


def wrongly_equal(comparisons: Comparisons, gains: Array) -> bool:
    """Whether an arm is claimed not to differ although its true gain is larger than the resolution."""
    equal = [arm for arm, item in comparisons.items() if judge_arm(item, RESOLUTION) == Verdict.NO_DIFFERENCE]
    return any(abs(gains[arm]) > RESOLUTION for arm in equal)


def covered(comparisons: Comparisons, gains: Array) -> bool:
    """Whether every interval contains the true gain."""
    return all(item.low <= gains[arm] <= item.high for arm, item in comparisons.items())
