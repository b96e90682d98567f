"""The gain on held-out seeds by hand and by simulation; power and number of seeds against the test that is used."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regularization.study.analysis.comparison import Sample, compare
from regularization.study.analysis.gain import POWER, held_out_gain, power, seeds_needed
from tests.study.analysis.synthetic import NOISE, draw_accuracies, sample_of


def test_the_gain_on_held_out_seeds_by_hand() -> None:
    """Differences (1, 4, 1) and (2, 0, 3): without seed 0 the second mean is 1.5 against 2.5, and so on."""
    table = np.array([[10.0, 20, 30], [11, 24, 31], [12, 20, 33]])
    # Without seed 0 the first arm is chosen (+1 there), without seed 1 the second (0), without seed 2 the first (+1).
    assert held_out_gain(sample_of(table), baseline=0) == pytest.approx((1 + 0 + 1) / 3)


def test_the_gain_on_held_out_seeds_with_missing_trials() -> None:
    nan = math.nan
    table = np.array([[10.0, 20, 30, nan], [11, 24, nan, 50], [nan, 20, 33, 90]])
    # Seed 3 has no baseline. Without seed 0: +4 against +1.5, and the first arm has +1 there. Without seed 1: +1
    # against +3, and the second has 0. Without seed 2: +2.5 against 0, and the first arm was not trained there.
    assert held_out_gain(sample_of(table), baseline=0) == pytest.approx((1 + 0) / 2)


def test_the_gain_is_missing_if_no_seed_is_held_out() -> None:
    assert math.isnan(held_out_gain(sample_of(np.array([[0.8], [0.9]])), baseline=0))
    assert math.isnan(held_out_gain(sample_of(np.array([[0.8, 0.8, 0.8]])), baseline=0))
    # The arm and the baseline have no seed in common.
    apart = Sample(np.array([0.8, 0.8, 0.9, 0.9]), np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]))
    assert math.isnan(held_out_gain(apart, baseline=0))


def test_the_gain_on_held_out_seeds_is_unbiased_and_that_of_the_best_arm_is_not() -> None:
    generator = np.random.default_rng(0)
    tables = [draw_accuracies([0.0] * 6, 3, generator) for _ in range(400)]
    gains = np.array([held_out_gain(sample_of(table), baseline=0) for table in tables])
    best = np.array([table[1:].mean(axis=1).max() - table[0].mean() for table in tables])
    assert abs(gains.mean()) < 3 * gains.std() / math.sqrt(len(gains))
    assert best.mean() > 0.001


def test_the_trial_that_ended_the_study_is_left_out() -> None:
    """The last trial of the arm that looks best: without it, the differences are (1, 3) and (2, 0, 1)."""
    table = np.array([[10.0, 20, 30], [11, 23, 38], [12, 20, 31]])
    # Without seed 0: +3 against +0.5, and the first arm has +1 there. Without seed 1: +1 against +1.5, and the second
    # has 0. Without seed 2: +2 against +1, and the first arm has no trial there.
    assert held_out_gain(sample_of(table), baseline=0, stopped=True) == pytest.approx((1 + 0) / 2)
    # None of two trials is left out. Without seed 0: +3 against 0, and the first arm has +1 there. Without seed 1: +1
    # against +2, and the second has 0.
    assert held_out_gain(sample_of(table[:, :2]), baseline=0, stopped=True) == pytest.approx((1 + 0) / 2)
    assert math.isnan(held_out_gain(sample_of(table[:1]), baseline=0, stopped=True))


def test_without_the_trial_that_ended_the_study_the_gain_is_less_too_high() -> None:
    generator, true = np.random.default_rng(1), 0.004
    errors: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(400):
        table = draw_accuracies([0, true], 12, generator)
        differences = table[1] - table[0]
        t = [differences[:n].mean() / differences[:n].std(ddof=1) * math.sqrt(n) for n in range(3, 13)]
        count = next((n for n, value in enumerate(t, 3) if value > 2.5), 12)
        for stopped, values in errors.items():
            values.append(held_out_gain(sample_of(table[:, :count]), 0, stopped) - true)
    assert np.mean(errors[False]) > 0.0002
    assert abs(np.mean(errors[True])) < 0.7 * np.mean(errors[False])


@pytest.mark.parametrize(("arms", "seeds", "difference"), [(7, 4, 0.007), (3, 5, 0.006), (2, 6, 0.004)])
def test_power_agrees_with_the_comparison_that_is_used(arms: int, seeds: int, difference: float) -> None:
    """The comparison estimates the variance of each arm, which costs some power."""
    generator = np.random.default_rng(arms)
    effects = [0.0] * (arms - 1) + [difference]
    claims = [
        compare(sample_of(draw_accuracies(effects, seeds, generator)), baseline=0)[arms - 1].low > 0 for _ in range(400)
    ]
    expected = power(seeds, difference, NOISE, arms, 0.05)
    assert 0.4 < expected < 0.95, "a power at which a deviation would show"
    assert expected - 0.15 < np.mean(claims) < expected + 0.06


def constant(alpha: float) -> Callable[[int], float]:
    return lambda seeds: alpha


@given(
    difference=st.floats(0.002, 0.02),
    std=st.floats(0.001, 0.008),
    arms=st.integers(2, 8),
    at_least=st.integers(1, 30),
)
def test_seeds_needed_is_the_smallest_number_that_has_the_power(
    difference: float, std: float, arms: int, at_least: int
) -> None:
    needed = seeds_needed(difference, std, arms, constant(0.05), at_least)
    assert needed is not None
    assert needed >= max(2, at_least)
    assert power(needed, difference, std, arms, 0.05) >= POWER
    assert needed == max(2, at_least) or power(needed - 1, difference, std, arms, 0.05) < POWER
    assert seeds_needed(-difference, std, arms, constant(0.05), at_least) == needed


def test_seeds_needed_are_judged_at_the_level_that_holds_with_so_many_seeds() -> None:
    def falling(seeds: int) -> float:
        return 0.04 / seeds

    needed = seeds_needed(0.005, 0.006, 5, falling)
    assert needed is not None
    assert power(needed, 0.005, 0.006, 5, falling(needed)) >= POWER
    assert power(needed - 1, 0.005, 0.006, 5, falling(needed - 1)) < POWER
    fixed = seeds_needed(0.005, 0.006, 5, constant(0.04))
    assert fixed is not None
    assert needed > fixed


@pytest.mark.parametrize(
    ("difference", "std", "arms", "alpha"),
    [(0.004, 0.0025, 7, 0.05), (0.005, 0.003, 7, 0.05), (0.005, 0.0025, 12, 0.05), (0.005, 0.0025, 7, 0.008)],
)
def test_seeds_needed_grows_with_what_makes_it_harder(difference: float, std: float, arms: int, alpha: float) -> None:
    needed, more = seeds_needed(0.005, 0.0025, 7, constant(0.05)), seeds_needed(difference, std, arms, constant(alpha))
    assert needed is not None
    assert more is not None
    assert more >= needed if arms > 7 else more > needed


@pytest.mark.filterwarnings("error")
def test_seeds_needed_in_extreme_cases() -> None:
    assert seeds_needed(0.0, 0.01, 7, constant(0.05)) is None
    assert seeds_needed(math.nan, 0.01, 7, constant(0.05)) is None
    assert seeds_needed(0.5, 0.0, 7, constant(0.05)) is None
    assert seeds_needed(0.5, math.nan, 7, constant(0.05)) is None
    assert seeds_needed(1e-6, 0.01, 7, constant(0.05)) is None
    assert seeds_needed(0.5, 1e-6, 7, constant(0.05)) == 2
    assert seeds_needed(0.5, 1e-6, 7, constant(0.05), at_least=1000) == 1000
    assert power(1, 0.5, 0.001, 7, 0.05) == 0
