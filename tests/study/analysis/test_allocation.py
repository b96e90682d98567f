"""The next trial, checked by hand on small samples, and whole studies that run until they are decided."""

import math
from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from regularization.study.analysis.allocation import next_trial
from regularization.study.analysis.comparison import Sample, compare
from regularization.study.analysis.looks import scheduled_alpha
from regularization.study.analysis.verdicts import Answer, judge_study
from tests.study.analysis.synthetic import NOISE, draw_accuracies, sample_of

RESOLUTION, ALPHA = 0.005, 0.008
# Differences from arm 0 within seeds have a standard deviation of about 0.1 points.
SPREAD = 0.001 * np.array([[0, 0, 0], [1, -1, 0], [-1, 0, 1], [0, 1, -1]])


def propose(gains: Sequence[float], given_seeds: dict[int, set[int]], seeds: int = 6) -> tuple[int, int] | None:
    """The next trial if arms with these gains, in points, have finished their first three seeds."""
    table = 0.8 + np.reshape(gains, (-1, 1)) / 100 + SPREAD
    return next_trial(sample_of(table), given_seeds, 0, range(seeds), ALPHA, RESOLUTION)


def first_seeds(**others: set[int]) -> dict[int, set[int]]:
    return {arm: others.get(f"arm{arm}", {0, 1, 2}) for arm in range(4)}


def test_the_baseline_goes_first_where_an_arm_has_all_of_its_seeds() -> None:
    assert propose([0, 0.2, 0.4, 0], first_seeds()) == (0, 3)


def test_the_arm_that_looks_best_is_trained() -> None:
    assert propose([0, 0.1, 0.4, -0.2], first_seeds(arm0={0, 1, 2, 3})) == (2, 3)
    # A trial that is already running is not proposed again.
    assert propose([0, 0.1, 0.4, -0.2], first_seeds(arm0={0, 1, 2, 3}, arm2={0, 1, 2, 3})) == (0, 4)


def test_the_standard_error_counts_for_an_arm_with_few_seeds() -> None:
    # Gains of 0.40 and 0.37 points with 8 and 2 seeds: the standard error of the second is twice as large, about 0.06.
    table = 0.8 + np.array([[0], [0.0040], [0.0037], [-0.01]]) + np.tile(SPREAD, 3)[:, :8]
    table[2, [1, *range(3, 8)]] = math.nan
    given_seeds = {arm: set(np.flatnonzero(np.isfinite(row)).tolist()) for arm, row in enumerate(table)}
    assert next_trial(sample_of(table), given_seeds, 0, range(9), 1e-6, RESOLUTION) == (2, 1)
    # For a gain of 0.30 points, the standard error would have to be larger.
    table[2] -= 0.0007
    assert next_trial(sample_of(table), given_seeds, 0, range(9), 1e-6, RESOLUTION) == (0, 8)


def test_after_one_seed_of_each_the_best_arm_and_the_baseline_go_on() -> None:
    table = np.array([[0.80], [0.81], [0.82], [0.70]])
    given_seeds = {arm: {0} for arm in range(4)}
    assert next_trial(sample_of(table), given_seeds, 0, range(9), ALPHA, RESOLUTION) == (0, 1)
    given_seeds[0].add(1)
    assert next_trial(sample_of(table), given_seeds, 0, range(9), ALPHA, RESOLUTION) == (2, 1)
    # If that trial fails, the next arm is trained.
    given_seeds[2].add(1)
    assert next_trial(sample_of(table), given_seeds, 0, range(9), ALPHA, RESOLUTION) == (1, 1)


def test_an_arm_that_may_get_no_more_seeds_is_passed_over() -> None:
    given_seeds = first_seeds(arm0={0, 1, 2, 3})
    assert propose([0, 0.1, 0.4, -0.2], given_seeds) == (2, 3)
    del given_seeds[2]
    assert propose([0, 0.1, 0.4, -0.2], given_seeds) == (1, 3)
    assert propose([0, 0.1, 0.4, -0.2], {0: {0, 1, 2}}) is None


def test_where_nothing_helps_the_arm_whose_interval_ends_highest_is_trained() -> None:
    given_seeds = first_seeds(arm0={0, 1, 2, 3})
    assert propose([0, -0.1, 0.02, -0.6], given_seeds) == (2, 3)
    assert propose([0, 0.02, -0.1, -0.6], given_seeds) == (1, 3)
    # If this arm has all seeds of the baseline, the baseline gets the next seed first.
    given_seeds[2].add(3)
    assert propose([0, -0.1, 0.02, -0.6], given_seeds) == (0, 4)


def test_an_arm_that_is_ruled_out_gets_no_more_seeds() -> None:
    given_seeds = first_seeds(arm0=set(range(6)), arm1=set(range(6)), arm2=set(range(6)))
    assert propose([0, 0.02, 0.02, -5], given_seeds) is None


def test_before_any_arm_can_be_compared_the_one_with_the_fewest_seeds_is_trained() -> None:
    empty = Sample(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    assert next_trial(empty, {0: {0}, 1: {0}, 2: set()}, 0, range(3), ALPHA, RESOLUTION) == (2, 0)
    assert next_trial(empty, {0: set(), 1: set()}, 0, [5, 7], ALPHA, RESOLUTION) == (0, 5)
    assert next_trial(empty, {0: {5, 7}, 1: {5, 7}}, 0, [5, 7], ALPHA, RESOLUTION) is None


@given(
    arms=st.integers(2, 6),
    seed=st.integers(0, 2**32),
    finished=st.integers(0, 3),
    collapsed=st.booleans(),
    zero_spread=st.booleans(),
)
def test_trials_are_never_repeated_and_use_the_seeds_of_the_baseline(
    arms: int, seed: int, finished: int, collapsed: bool, zero_spread: bool
) -> None:
    """Hands out trials until there are none left, while results arrive late or never."""
    generator, seeds = np.random.default_rng(seed), [3, 1, 4, 5]
    table = draw_accuracies(generator.normal(0, 0.003, arms).tolist(), 6, generator, 0.0 if zero_spread else NOISE)
    table[-1] -= 0.5 * collapsed
    given_seeds = {arm: set(seeds[:finished]) for arm in range(arms)}
    done = np.full(table.shape, math.nan)
    while True:
        for arm, own in given_seeds.items():
            for number in own:
                if generator.random() < 0.7:
                    done[arm, number] = table[arm, number]
        choice = next_trial(sample_of(done), given_seeds, 0, seeds, ALPHA, RESOLUTION)
        if choice is None:
            break
        arm, number = choice
        assert number in seeds
        assert number not in given_seeds[arm]
        assert arm == 0 or number in given_seeds[0]
        given_seeds[arm].add(number)
    assert given_seeds[0] == set(seeds) or arms == 1


def run_study(
    effects: Sequence[float], generator: np.random.Generator, seeds: int = 10, start: int = 2
) -> tuple[Answer, int]:
    """Trains two seeds of every arm, then what ``next_trial`` proposes until a look decides. Also counts the trials."""
    table = draw_accuracies(effects, seeds, generator)
    done = np.full(table.shape, math.nan)
    done[:, :start] = table[:, :start]
    looks: list[int] = []
    while True:
        size = int(np.isfinite(done[0]).sum())
        looks += [size] if scheduled_alpha(size) > 0 and size not in looks else []
        alpha = scheduled_alpha(looks[-1] if looks else 2)
        answer = judge_study(compare(sample_of(done), 0, alpha).values(), RESOLUTION)
        given_seeds = {arm: set(np.flatnonzero(np.isfinite(done[arm])).tolist()) for arm in range(len(effects))}
        choice = next_trial(sample_of(done), given_seeds, 0, range(seeds), alpha, RESOLUTION)
        if answer != Answer.UNDECIDED or choice is None:
            return answer, int(np.isfinite(done).sum())
        done[choice] = table[choice]


def test_a_study_with_a_peak_is_decided_by_less_than_half_of_the_grid() -> None:
    """Seven λ, one of which gains 0.65 points: the median number of trials is at most 45% of 7 × 10."""
    generator = np.random.default_rng(0)
    studies = [run_study([0, 0.001, 0.003, 0.0065, 0.005, -0.01, -0.2], generator) for _ in range(15)]
    assert sum(answer == Answer.HELPS for answer, _ in studies) >= 13
    assert np.median([trials for _, trials in studies]) <= 31


def test_a_study_that_starts_with_one_seed_takes_a_third_of_the_grid() -> None:
    generator = np.random.default_rng(0)
    studies = [run_study([0, 0.001, 0.003, 0.0065, 0.005, -0.01, -0.2], generator, start=1) for _ in range(15)]
    assert sum(answer == Answer.HELPS for answer, _ in studies) >= 13
    assert np.median([trials for _, trials in studies]) <= 24


def test_a_study_of_equal_arms_is_decided_without_a_false_claim() -> None:
    generator = np.random.default_rng(1)
    studies = [run_study([0.0] * 4, generator, seeds=20) for _ in range(5)]
    assert [answer for answer, _ in studies].count(Answer.NONE_HELPS) >= 4
    assert max(trials for _, trials in studies) < 80
