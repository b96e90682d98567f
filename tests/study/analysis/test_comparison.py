"""Comparisons within seeds compared with SciPy, least squares, and simulated studies with known true effects."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from regularization.study.analysis.comparison import Comparison, Sample, compare
from tests.study.analysis.synthetic import NOISE, draw_accuracies, sample_of

# At a rate of 5%, 600 studies have more false claims than this in 1 of 200 repetitions.
STUDIES, MAX_RATE = 600, 0.05 + 2.58 * math.sqrt(0.05 * 0.95 / 600)


def uncovered(
    effects: Sequence[float], seeds: int, noise: float | Sequence[float], seed: int, studies: int = STUDIES
) -> float:
    """The share of studies with an interval that misses the true difference; without differences, of false claims."""
    generator, missed = np.random.default_rng(seed), 0
    for _ in range(studies):
        comparisons = compare(sample_of(draw_accuracies(effects, seeds, generator, noise)), baseline=0)
        truth = {arm: effects[arm] - effects[0] for arm in comparisons}
        missed += not all(item.low <= truth[arm] <= item.high for arm, item in comparisons.items())
    return missed / studies


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20])
def test_two_arms_are_compared_by_the_paired_t_test(seeds: int) -> None:
    table = draw_accuracies([0, 0.003], seeds, np.random.default_rng(seeds))
    comparison = compare(sample_of(table), baseline=0)[1]
    expected = stats.ttest_rel(table[1], table[0])
    interval = expected.confidence_interval()
    assert comparison.difference == pytest.approx(table[1].mean() - table[0].mean())
    assert comparison.p == pytest.approx(expected.pvalue, rel=1e-4)
    assert (comparison.low, comparison.high) == pytest.approx((interval.low, interval.high), rel=1e-4)
    assert comparison.standard_error == pytest.approx(stats.sem(table[1] - table[0]))


def test_two_unblocked_arms_are_compared_by_a_test_between_students_and_welchs() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        table = generator.normal([[0.8], [0.803]], 0.004, (2, 5))
        comparison = compare(sample_of(table), baseline=0, blocked=False)[1]
        student, welch = (stats.ttest_ind(table[1], table[0], equal_var=equal).pvalue for equal in (True, False))
        # Student's and Welch's t are equal here. The degrees of freedom lie between theirs, rounded to a tenth.
        assert student * 0.99 <= comparison.p <= welch * 1.01


def test_seeds_are_ignored_where_they_are_not_comparable() -> None:
    table = draw_accuracies([0, 0, 0], 5, np.random.default_rng(2))
    shuffled = np.stack([table[0], table[1][::-1], table[2]])
    first, second = (compare(sample_of(part), 0, blocked=False)[1] for part in (table, shuffled))
    assert first.p == pytest.approx(second.p)
    assert compare(sample_of(table), 0)[1].p != pytest.approx(compare(sample_of(shuffled), 0)[1].p)


def test_differences_in_incomplete_blocks_agree_with_least_squares() -> None:
    generator = np.random.default_rng(3)
    table = draw_accuracies([0, 0.01, -0.01, 0.02], 6, generator)
    table[0, 1] = table[1, 2] = table[1, 3] = table[2, 0] = table[3, 5] = math.nan
    sample = sample_of(table)
    # Dummy coding, with the baseline and the first seed as reference.
    columns = [np.ones(len(sample.values))]
    columns += [(sample.arms == arm).astype(float) for arm in (0, 1, 3)]
    columns += [(sample.seeds == seed).astype(float) for seed in range(1, 6)]
    solution = np.linalg.lstsq(np.stack(columns, axis=1), sample.values)[0]
    comparisons = compare(sample, baseline=2)
    assert [comparisons[arm].difference for arm in (0, 1, 3)] == pytest.approx(solution[1:4])


def test_arms_of_equal_spread_are_compared_like_a_pooled_two_way_analysis() -> None:
    """With a residual of the same size in every arm, the variance is that of the classical analysis."""
    residuals = 0.001 * np.array([[1, -1, 0], [-1, 0, 1], [0, 1, -1]])
    table = 0.8 + residuals + np.array([[0], [0.01], [-0.01]]) + np.array([0.0, 0.02, -0.01])
    comparisons = compare(sample_of(table), baseline=0)
    variance = (residuals**2).sum() / 4
    for comparison in comparisons.values():
        assert comparison.standard_error == pytest.approx(math.sqrt(2 * variance / 3))
    assert comparisons[1].difference == pytest.approx(0.01)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """2 to 8 arms with 1 to 6 seeds, any spreads and missing trials; the baseline has at least one."""
    arms, seeds = draw(st.integers(2, 8)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    noise = draw(st.lists(st.sampled_from([0.001, 0.003, 0.01]), min_size=arms, max_size=arms))
    effects = draw(st.lists(st.sampled_from([0, 0.003, 0.01, -0.3]), min_size=arms, max_size=arms))
    table = draw_accuracies(effects, seeds, generator, noise)
    missing = generator.random(table.shape) < draw(st.sampled_from([0, 0.2, 0.6]))
    missing[0, 0] = False
    return sample_of(np.where(missing, np.nan, table))


@given(samples(), st.sampled_from([0.05, 0.04, 0.008, 0.0005]), st.booleans())
def test_an_interval_excludes_zero_exactly_where_p_is_below_5_percent(
    sample: Sample, alpha: float, blocked: bool
) -> None:
    comparisons = compare(sample, 0, alpha, blocked)
    assert list(comparisons) == sorted({*sample.arms.tolist()} - {0})
    for comparison in comparisons.values():
        assert math.isfinite(comparison.difference)
        numbers = [comparison.low, comparison.high, comparison.p, comparison.standard_error]
        if any(map(math.isnan, numbers)):
            assert all(map(math.isnan, numbers))
            continue
        assert comparison.low <= comparison.difference <= comparison.high
        assert 0 <= comparison.p <= 1
        assert (comparison.low > 0 or comparison.high < 0) == (comparison.p < 0.05)


@pytest.mark.parametrize(("arms", "seeds"), [(7, 3), (3, 4), (2, 5)])
def test_at_most_5_percent_of_studies_with_equal_arms_have_a_false_claim(arms: int, seeds: int) -> None:
    assert uncovered([0.0] * arms, seeds, NOISE, seed=arms) <= MAX_RATE


def test_at_most_5_percent_with_one_arm_of_three_times_the_spread() -> None:
    assert uncovered([0.0] * 7, 3, [NOISE] * 6 + [3 * NOISE], seed=10) <= MAX_RATE


def test_intervals_hold_simultaneously_in_95_percent_of_studies() -> None:
    effects = [0, 0.001, 0.003, 0.0065, 0.005, -0.01, -0.2]
    assert uncovered(effects, 3, [NOISE] * 5 + [1.5 * NOISE, 10 * NOISE], seed=11) <= MAX_RATE


def test_intervals_hold_where_trials_are_missing() -> None:
    generator, missed = np.random.default_rng(12), 0
    for _ in range(STUDIES):
        table = draw_accuracies([0.0] * 5, 5, generator)
        table[1, :2] = table[2, 3:] = table[0, 4] = math.nan
        missed += any(item.p < 0.05 for item in compare(sample_of(table), 0).values())
    assert missed / STUDIES <= MAX_RATE


def test_a_collapsed_arm_does_not_widen_the_intervals_of_the_others() -> None:
    table = draw_accuracies([0, 0.003, 0.005, -0.5], 4, np.random.default_rng(4))
    table[3] += [0.1, -0.1, 0.05, -0.05]
    collapsed = compare(sample_of(table), 0)
    table[3] = 0.1 + 0.3 * (table[3] - 0.1)
    calmer = compare(sample_of(table), 0)
    assert collapsed[1] == calmer[1]
    assert collapsed[2] == calmer[2]
    # The collapsed arm is compared by a paired test, with Bonferroni's correction over the three comparisons.
    expected = stats.ttest_rel(table[3], table[0])
    interval = expected.confidence_interval(1 - 0.05 / 3)
    assert calmer[3].p == pytest.approx(3 * expected.pvalue)
    assert (calmer[3].low, calmer[3].high) == pytest.approx((interval.low, interval.high))


def test_an_arm_of_far_larger_spread_does_not_widen_the_intervals_of_the_others() -> None:
    table = draw_accuracies([0, 0.003, 0.005, 0], 5, np.random.default_rng(5))
    without = compare(sample_of(table[:3]), 0)
    table[3] += [0.05, -0.06, 0.05, -0.06, 0.02]
    wide = compare(sample_of(table), 0)
    assert wide[1].standard_error == pytest.approx(without[1].standard_error)
    assert wide[3].standard_error > 10 * wide[1].standard_error


def test_collapsed_arms_without_common_seeds_are_compared_unblocked_or_not_at_all() -> None:
    values, seeds = np.array([0.8, 0.81, 0.79, 0.1, 0.12, 0.11]), np.array([0, 1, 2, 3, 4, 5])
    sample = Sample(values, np.array([0, 0, 0, 1, 1, 1]), seeds)
    blocked, unblocked = compare(sample, 0)[1], compare(sample, 0, blocked=False)[1]
    assert blocked.difference == pytest.approx(-0.69)
    assert math.isnan(blocked.p)
    assert unblocked.p == pytest.approx(stats.ttest_ind(values[3:], values[:3], equal_var=False).pvalue)


def check_missing(comparison: Comparison, difference: float) -> None:
    """Checks that only the difference of the means is known."""
    assert comparison.difference == pytest.approx(difference)
    assert all(math.isnan(x) for x in (comparison.low, comparison.high, comparison.p, comparison.standard_error))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "table",
    [
        np.array([[0.80], [0.81], [0.82]]),
        np.array([[0.80, 0.81], [0.81, 0.82], [0.82, 0.83]]),
        np.array([[0.8, 0.8, 0.8], [0.81, 0.81, 0.81], [0.82, 0.82, 0.82]]),
    ],
    ids=["one seed", "the same differences in all seeds", "no spread"],
)
def test_without_an_estimate_of_the_noise_nothing_but_the_difference_is_known(table: NDArray[np.float64]) -> None:
    for blocked in (True, False) if table.shape[1] != 2 else (True,):
        comparisons = compare(sample_of(table), 0, blocked=blocked)
        check_missing(comparisons[1], 0.01)
        check_missing(comparisons[2], 0.02)


@pytest.mark.filterwarnings("error")
def test_an_accuracy_of_one_everywhere() -> None:
    check_missing(compare(sample_of(np.ones((3, 4))), 0)[2], 0)


def test_an_arm_without_a_seed_in_common_cannot_be_compared_within_seeds() -> None:
    table = np.full((3, 6), np.nan)
    table[0, :3], table[1, :3], table[2, 3:] = [0.80, 0.82, 0.81], [0.81, 0.82, 0.83], [0.85, 0.86, 0.87]
    comparisons = compare(sample_of(table), 0)
    assert comparisons[1].p < 1
    check_missing(comparisons[2], 0.05)
    # A third arm that shares seeds with both connects them.
    linked = np.vstack([table, [0.80, math.nan, 0.81, 0.81, 0.83, math.nan]])
    assert math.isfinite(compare(sample_of(linked), 0)[2].p)


def test_an_arm_with_one_trial_has_no_interval() -> None:
    """Its own noise is not known, and that of the others may be smaller."""
    table = draw_accuracies([0, 0.1, -0.05], 5, np.random.default_rng(6))
    table[2, 1:] = math.nan
    comparisons = compare(sample_of(table), 0)
    assert math.isfinite(comparisons[1].p)
    effects = table[:2] - table[:2].mean(axis=0) + table[:2].mean()
    check_missing(comparisons[2], table[2, 0] - table[0].mean() - (table[:2, 0] - effects[:, 0]).mean())
    table[2, 1] = table[2, 0]
    assert math.isfinite(compare(sample_of(table), 0)[2].p)


def test_a_baseline_with_one_seed_is_compared_by_the_noise_of_the_others() -> None:
    table = draw_accuracies([0, 0.1, -0.05], 5, np.random.default_rng(6))
    table[0, 1:] = math.nan
    comparisons = compare(sample_of(table), 0)
    assert comparisons[1].low > 0
    assert comparisons[2].high < 0


@pytest.mark.filterwarnings("error")
def test_all_arms_but_the_baseline_may_collapse() -> None:
    table = draw_accuracies([0, -0.5, -0.6], 3, np.random.default_rng(7))
    assert all(comparison.high < 0 for comparison in compare(sample_of(table), 0).values())
