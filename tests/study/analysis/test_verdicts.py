"""The four verdicts on an arm and the three answers of a study, at their boundaries."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regularization.study.analysis.comparison import Comparison
from regularization.study.analysis.verdicts import Answer, Verdict, judge_arm, judge_study

RESOLUTION = 0.005


def interval(low: float, high: float) -> Comparison:
    return Comparison((low + high) / 2, low, high, 0.5, 0.001)


MISSING = interval(math.nan, math.nan)
HELPS, HURTS, WIDE = interval(0.001, 0.02), interval(-0.02, -0.001), interval(-0.01, 0.01)
NARROW, BELOW = interval(-0.004, 0.004), interval(-0.01, 0.004)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.001, 0.02, Verdict.HELPS),
        (0.001, 0.002, Verdict.HELPS),
        (1e-9, 0.02, Verdict.HELPS),
        (0.0, 0.02, Verdict.UNDECIDED),
        (-0.02, -0.001, Verdict.HURTS),
        (-0.002, -0.001, Verdict.HURTS),
        (-0.02, 0.0, Verdict.UNDECIDED),
        (-0.004, 0.004, Verdict.NO_DIFFERENCE),
        (-0.005, 0.004, Verdict.UNDECIDED),
        (-0.004, 0.005, Verdict.UNDECIDED),
        (-0.02, 0.02, Verdict.UNDECIDED),
        (math.nan, math.nan, Verdict.UNDECIDED),
    ],
)
def test_the_verdict_on_an_arm(low: float, high: float, verdict: Verdict) -> None:
    assert judge_arm(interval(low, high), RESOLUTION) == verdict


def test_an_arm_collapses_that_is_undecided_and_far_below() -> None:
    assert judge_arm(interval(-0.9, 0.1), RESOLUTION, collapse=0.1) == Verdict.COLLAPSES
    assert judge_arm(interval(-0.15, 0.05), RESOLUTION, collapse=0.1) == Verdict.UNDECIDED
    assert judge_arm(interval(-0.9, -0.1), RESOLUTION, collapse=0.1) == Verdict.HURTS


@pytest.mark.parametrize(
    ("comparisons", "answer"),
    [
        ([HELPS], Answer.HELPS),
        ([HURTS, WIDE, HELPS, MISSING], Answer.HELPS),
        ([HURTS, NARROW, BELOW], Answer.NONE_HELPS),
        ([HURTS], Answer.NONE_HELPS),
        ([HURTS, WIDE], Answer.UNDECIDED),
        ([NARROW, MISSING], Answer.UNDECIDED),
        ([interval(-0.004, 0.005)], Answer.UNDECIDED),
        ([], Answer.UNDECIDED),
    ],
)
def test_the_answer_of_a_study(comparisons: list[Comparison], answer: Answer) -> None:
    assert judge_study(comparisons, RESOLUTION) == answer
    assert judge_study(iter(comparisons), RESOLUTION) == answer


ends = st.floats(-0.02, 0.02) | st.just(math.nan)


@given(st.lists(st.tuples(ends, ends).map(lambda pair: interval(min(pair), max(pair))), max_size=5))
def test_answer_and_verdicts_agree(comparisons: list[Comparison]) -> None:
    answer = judge_study(comparisons, RESOLUTION)
    verdicts = {judge_arm(comparison, RESOLUTION) for comparison in comparisons}
    assert (answer == Answer.HELPS) == (Verdict.HELPS in verdicts)
    if comparisons and verdicts <= {Verdict.HURTS, Verdict.NO_DIFFERENCE}:
        assert answer == Answer.NONE_HELPS


def test_verdicts_read_as_they_are_shown() -> None:
    assert [str(verdict) for verdict in Verdict] == [
        "helps",
        "hurts",
        "no difference that matters",
        "undecided",
        "collapses",
    ]
