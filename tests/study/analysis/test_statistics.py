"""Statistics compared with SciPy, scikit-learn, closed forms and simulations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logit

from regularization.study.analysis import statistics


def test_the_interval_of_a_mean_is_students_on_the_logit_scale() -> None:
    accuracies = np.array([0.91, 0.93, 0.90, 0.94])
    low, high = statistics.mean_interval(accuracies)
    values = logit(accuracies)
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert (logit(low), logit(high)) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_interval_of_a_mean_stays_inside_0_to_1(accuracies: list[float]) -> None:
    low, high = statistics.mean_interval(accuracies)
    assert 0 <= low <= high <= 1
    assert low - 1e-4 <= max(accuracies)
    assert high + 1e-4 >= min(accuracies)


def test_95_percent_of_intervals_cover_the_mean() -> None:
    drawn = np.random.default_rng(0).normal(0.8, 0.004, (2000, 3))
    covered = [low <= 0.8 <= high for low, high in map(statistics.mean_interval, drawn)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


@pytest.mark.filterwarnings("error")
def test_the_interval_of_a_mean_in_extreme_cases() -> None:
    assert all(map(math.isnan, statistics.mean_interval([0.5])))
    assert statistics.mean_interval([1.0, 1.0, 1.0]) == pytest.approx((1, 1), abs=1e-4)
    assert statistics.mean_interval([0.0, 0.0]) == pytest.approx((0, 0), abs=1e-4)
    low, high = statistics.mean_interval([0.0, 1.0])
    assert low < 1e-6
    assert high > 1 - 1e-6


@pytest.mark.filterwarnings("error")
def test_the_share_of_the_images_in_the_variance() -> None:
    """Computed by hand: the variance of 0.70, 0.80 and 0.90 is 0.01, that of 100 images 0.8 · 0.2/100 = 0.0016."""
    assert statistics.image_share([0.7, 0.8, 0.9], 100) == pytest.approx(0.16)
    assert statistics.image_share([0.7, 0.8, 0.9], 10) == 1
    for accuracies, images in (([0.8], 100), ([0.8, 0.8], 100), ([0.7, 0.9], 0)):
        assert math.isnan(statistics.image_share(accuracies, images))


def test_the_share_of_the_images_is_1_where_networks_are_equally_good() -> None:
    accuracies = np.random.default_rng(1).binomial(500, 0.8, 4000) / 500
    assert statistics.image_share(accuracies, 500) == pytest.approx(1, abs=0.05)


def draw_gains(generator: np.random.Generator, seeds: int, images: int, missing: float = 0.0) -> NDArray[np.float64]:
    """Gains ``(seeds, images)`` with a mean of about 0.01 that differ by the image more than by the seed."""
    latent = generator.normal(0, 0.5, images) + generator.normal(0, 0.1, (seeds, 1))
    latent = latent + generator.normal(0, 0.5, (seeds, images))
    gains = (latent > 0.95).astype(float) - (latent < -1.0352)
    gains[generator.random(gains.shape) < missing] = math.nan
    return gains


def bootstrap_by_hand(gains: NDArray[np.float64], draws: int) -> NDArray[np.float64]:
    """The pigeonhole bootstrap by definition: draws rows and columns with replacement, averages the existing values."""
    generator, (seeds, images) = np.random.default_rng(0), gains.shape
    rows, columns = generator.integers(seeds, size=(draws, seeds)), generator.integers(images, size=(draws, images))
    return np.array([np.nanmean(gains[row][:, column]) for row, column in zip(rows, columns, strict=True)])


@pytest.mark.parametrize("missing", [0.0, 0.5])
def test_bootstrap_agrees_with_one_that_draws_rows_and_columns(missing: float) -> None:
    gains = draw_gains(np.random.default_rng(2), 5, 120, missing)
    comparison, means = statistics.bootstrap(gains, draws=4000), bootstrap_by_hand(gains, 4000)
    assert comparison.difference == pytest.approx(np.nanmean(gains))
    assert comparison.standard_error == pytest.approx(means.std(), rel=0.06)
    width = comparison.high - comparison.low
    expected = np.quantile(means, [0.025, 0.975])
    assert (comparison.low, comparison.high) == pytest.approx(tuple(expected), abs=0.06 * width)
    assert comparison.p == pytest.approx(2 * min(np.mean(means <= 0), np.mean(means >= 0)), abs=0.03)


def test_bootstrap_covers_the_gain_where_seeds_share_their_images() -> None:
    """30 seeds with the same 300 images: an interval that assumes independent rows covers the gain in about half."""
    generator = np.random.default_rng(3)
    truth = float(np.mean([draw_gains(generator, 1, 200_000).mean() for _ in range(40)]))
    covered, naive = [], []
    for index in range(150):
        gains = draw_gains(generator, 30, 300)
        comparison = statistics.bootstrap(gains, draws=200, seed=index)
        covered.append(comparison.low <= truth <= comparison.high)
        half = 1.96 * stats.sem(gains.mean(axis=1))
        naive.append(abs(gains.mean() - truth) <= half)
    assert np.mean(covered) >= 0.9
    assert np.mean(naive) < 0.9


@pytest.mark.filterwarnings("error")
def test_bootstrap_in_extreme_cases() -> None:
    none = statistics.bootstrap(np.zeros((3, 50)))
    assert (none.difference, none.low, none.high, none.p) == (0, 0, 0, 1)
    always = statistics.bootstrap(np.ones((3, 50)))
    assert (always.difference, always.low, always.high, always.p) == (1, 1, 1, 0)
    # Seeds that validate different images, as they do if the split is drawn again.
    apart = np.full((2, 40), np.nan)
    apart[0, :20], apart[1, 20:] = 1, -1
    assert statistics.bootstrap(apart).low < statistics.bootstrap(apart).difference == 0
