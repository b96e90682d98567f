"""The statistics against SciPy, scikit-learn, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import log_loss

from regularization.study import statistics


def samples(count: int, arms: int, seeds: int, *, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Accuracies ``(count, arms, seeds)`` of equal arms."""
    return np.random.default_rng(seed).normal(0.8, 0.004, (count, arms, seeds))


def test_intervals_cover_the_mean_in_95_of_100() -> None:
    drawn = samples(4000, 1, 3)[:, 0]
    covered = [abs(one.mean() - 0.8) <= statistics.half_width(one) for one in drawn]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_welch_is_scipys_and_covers_the_difference() -> None:
    drawn = samples(2000, 2, 3)
    for first, second in drawn[:50]:
        ours, theirs = statistics.welch(first, second), stats.ttest_ind(first, second, equal_var=False)
        assert ours.p == pytest.approx(theirs.pvalue)
        assert ours.difference == pytest.approx(first.mean() - second.mean())
    covered = [(one := statistics.welch(*pair)).low <= 0 <= one.high for pair in drawn]
    assert np.mean(covered) >= 0.95 - 0.015


def test_paired_is_scipys_and_tells_the_correlation() -> None:
    generator = np.random.default_rng(1)
    common = generator.normal(size=6)
    first, second = common + 0.1 * generator.normal(size=6), common + 0.5
    ours, theirs = statistics.paired(first, second), stats.ttest_rel(first, second)
    assert ours.p == pytest.approx(theirs.pvalue)
    interval = theirs.confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    assert ours.correlation == pytest.approx(stats.pearsonr(first, second)[0])
    covered = [(one := statistics.paired(*pair)).low <= 0 <= one.high for pair in samples(2000, 2, 4, seed=2)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.filterwarnings("ignore")
def test_degenerate_samples() -> None:
    # Counts that happen to be equal are no sign of certainty.
    assert math.isnan(statistics.welch([0.5, 0.5], [0.1, 0.1]).p)
    assert math.isnan(statistics.paired([0.5, 0.6], [0.4, 0.5]).p)
    one = statistics.welch([0.5], [0.4, 0.3])
    assert one.difference == pytest.approx(0.15)
    assert math.isnan(one.p)
    assert math.isnan(statistics.half_width([0.5]))


def test_holm() -> None:
    # By hand: sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []
    mixed = statistics.holm([math.nan, 0.01])
    assert math.isnan(mixed[0])
    assert mixed[1] == pytest.approx(0.02)


@pytest.mark.parametrize(("difference", "deviation"), [(0.01, 0.004), (0.005, 0.004), (0.004, 0.006)])
def test_the_number_of_seeds_is_the_smallest_and_simulation_agrees(difference: float, deviation: float) -> None:
    needed = statistics.seeds_needed(difference, deviation)
    assert needed is not None
    assert statistics.power(needed, difference, deviation) >= 0.8 > statistics.power(needed - 1, difference, deviation)
    generator = np.random.default_rng(0)
    for seeds in (needed, needed - 1):
        drawn = generator.normal(0, deviation, (20_000, 2, seeds))
        drawn[:, 0] += difference
        found = np.mean(stats.ttest_ind(drawn[:, 0], drawn[:, 1], axis=1).pvalue < 0.05)
        assert found == pytest.approx(statistics.power(seeds, difference, deviation), abs=0.01)


def test_seeds_needed_at_its_ends() -> None:
    assert statistics.seeds_needed(0.0, 0.01) is None
    assert statistics.seeds_needed(1e-9, 0.01) is None
    assert statistics.seeds_needed(0.5, 0.0) is None
    assert statistics.seeds_needed(0.5, 1e-9) == 2


def test_pooled_deviation_ignores_the_means() -> None:
    assert statistics.pooled_deviation([[1, 3], [11, 13, 15]]) == pytest.approx(math.sqrt((2 + 8) / 3))
    assert math.isnan(statistics.pooled_deviation([[1.0], [2.0]]))


def test_one_standard_error() -> None:
    arms = [[0.70, 0.72, 0.71], [0.78, 0.80, 0.79], [0.79, 0.81, 0.80], [0.60, 0.61, 0.62]]
    # The best has mean 0.80 and standard error 0.01/√3 = 0.0058: 0.79 is out.
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
    found = statistics.bootstrap(first, second)
    gains = np.array([one.mean() - other.mean() for one, other in zip(first, second, strict=True)])
    assert found.difference == pytest.approx(gains.mean())
    images = math.sqrt((0.82 * 0.18 + 0.8 * 0.2) / 2000 / 8)
    seeds = gains.std() / math.sqrt(8)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.hypot(images, seeds), rel=0.1)
    assert statistics.bootstrap(first, first).p == 1


def test_from_logits() -> None:
    generator = np.random.default_rng(4)
    logits, labels = generator.normal(size=(500, 10)).astype(np.float16), generator.integers(10, size=500)
    expected = log_loss(labels, softmax(logits.astype(float), axis=1), labels=range(10))
    assert statistics.negative_log_likelihood(logits, labels) == pytest.approx(expected)
    # All sure and half of them right: off by a half.
    sure = np.eye(2)[np.zeros(10, int)] * 1000
    assert statistics.calibration_error(sure, np.arange(10) % 2) == pytest.approx(0.5)
