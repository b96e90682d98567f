"""Statistics compared with SciPy, scikit-learn, closed forms and simulations."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import log_loss

from regularization.study.analysis import statistics


def draw_accuracies(
    count: int, arms: int, seeds: int, *, seed: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Accuracies ``(count, arms, seeds)`` of arms with the same mean, 0.8."""
    return np.random.default_rng(seed).normal(0.8, 0.004, (count, arms, seeds))


def test_95_percent_of_intervals_cover_the_mean() -> None:
    drawn = draw_accuracies(4000, 1, 3)[:, 0]
    covered = [abs(sample.mean() - 0.8) <= statistics.ci_half_width(sample) for sample in drawn]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_welch_agrees_with_scipy_and_covers_the_difference() -> None:
    drawn = draw_accuracies(2000, 2, 3)
    for first, second in drawn[:50]:
        comparison, expected = statistics.welch(first, second), stats.ttest_ind(first, second, equal_var=False)
        assert comparison.p == pytest.approx(expected.pvalue)
        assert comparison.difference == pytest.approx(first.mean() - second.mean())
    covered = [(result := statistics.welch(*pair)).low <= 0 <= result.high for pair in drawn]
    assert np.mean(covered) >= 0.95 - 0.015


def test_paired_agrees_with_scipy_and_returns_the_correlation() -> None:
    generator = np.random.default_rng(1)
    common = generator.normal(size=6)
    first, second = common + 0.1 * generator.normal(size=6), common + 0.5
    comparison, expected = statistics.paired(first, second), stats.ttest_rel(first, second)
    assert comparison.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (comparison.low, comparison.high) == pytest.approx((interval.low, interval.high))
    assert comparison.correlation == pytest.approx(stats.pearsonr(first, second)[0])
    covered = [
        (result := statistics.paired(*pair)).low <= 0 <= result.high for pair in draw_accuracies(2000, 2, 4, seed=2)
    ]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.filterwarnings("ignore")
def test_degenerate_samples() -> None:
    # Equal accuracies in a few runs do not show that the variance is zero.
    assert math.isnan(statistics.welch([0.5, 0.5], [0.1, 0.1]).p)
    assert math.isnan(statistics.paired([0.5, 0.6], [0.4, 0.5]).p)
    single = statistics.welch([0.5], [0.4, 0.3])
    assert single.difference == pytest.approx(0.15)
    assert math.isnan(single.p)
    assert math.isnan(statistics.ci_half_width([0.5]))


def test_holm() -> None:
    # By hand: the sorted values 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, made monotonic.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []
    mixed = statistics.holm([math.nan, 0.01])
    assert math.isnan(mixed[0])
    assert mixed[1] == pytest.approx(0.02)


@pytest.mark.parametrize(("difference", "std"), [(0.01, 0.004), (0.005, 0.004), (0.004, 0.006)])
def test_seeds_needed_is_the_smallest_number_and_power_agrees_with_simulation(difference: float, std: float) -> None:
    needed = statistics.seeds_needed(difference, std)
    assert needed is not None
    assert statistics.power(needed, difference, std) >= 0.8 > statistics.power(needed - 1, difference, std)
    generator = np.random.default_rng(0)
    for seeds in (needed, needed - 1):
        drawn = generator.normal(0, std, (20_000, 2, seeds))
        drawn[:, 0] += difference
        detected = np.mean(stats.ttest_ind(drawn[:, 0], drawn[:, 1], axis=1).pvalue < 0.05)
        assert detected == pytest.approx(statistics.power(seeds, difference, std), abs=0.01)


def test_seeds_needed_in_extreme_cases() -> None:
    assert statistics.seeds_needed(0.0, 0.01) is None
    assert statistics.seeds_needed(1e-9, 0.01) is None
    assert statistics.seeds_needed(0.5, 0.0) is None
    assert statistics.seeds_needed(0.5, 1e-9) == 2


def test_pooled_std_ignores_the_means() -> None:
    assert statistics.pooled_std([[1, 3], [11, 13, 15]]) == pytest.approx(math.sqrt((2 + 8) / 3))
    assert math.isnan(statistics.pooled_std([[1.0], [2.0]]))


def test_one_standard_error() -> None:
    arms = [[0.70, 0.72, 0.71], [0.78, 0.80, 0.79], [0.79, 0.81, 0.80], [0.60, 0.61, 0.62]]
    # The best has mean 0.80 and standard error 0.01/√3 = 0.0058, so 0.79 is not within it.
    assert statistics.within_one_standard_error(arms) == [2]
    arms[1] = [0.785, 0.805, 0.795]
    assert statistics.within_one_standard_error(arms) == [1, 2]
    assert statistics.within_one_standard_error([[0.5], [0.6], [0.6]]) == [1, 2]


def test_mcnemar() -> None:
    assert statistics.mcnemar(0, 0) == 1
    # 2·(C(10,0) + C(10,1)) / 2¹⁰
    assert statistics.mcnemar(9, 1) == pytest.approx(22 / 1024)


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    generator = np.random.default_rng(3)
    first = [generator.random(2000) < 0.82 for _ in range(8)]
    second = [generator.random(2000) < 0.80 for _ in range(8)]
    comparison = statistics.bootstrap(first, second)
    gains = np.mean(first, axis=1) - np.mean(second, axis=1)
    assert comparison.difference == pytest.approx(gains.mean())
    images = math.sqrt((0.82 * 0.18 + 0.8 * 0.2) / 2000 / 8)
    seeds = gains.std() / math.sqrt(8)
    assert (comparison.high - comparison.low) / 2 == pytest.approx(1.96 * math.hypot(images, seeds), rel=0.1)
    assert statistics.bootstrap(first, first).p == 1


def test_metrics_from_logits() -> None:
    generator = np.random.default_rng(4)
    logits, labels = generator.normal(size=(500, 10)).astype(np.float16), generator.integers(10, size=500)
    expected = log_loss(labels, softmax(logits.astype(float), axis=1), labels=range(10))
    assert statistics.negative_log_likelihood(logits, labels) == pytest.approx(expected)
    # All predictions have confidence 1, and half of them are correct.
    confident = np.eye(2)[np.zeros(10, int)] * 1000
    assert statistics.calibration_error(confident, np.arange(10) % 2) == pytest.approx(0.5)
