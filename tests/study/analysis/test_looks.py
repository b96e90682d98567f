"""The looks at a study spend 5% in total, however long the study runs."""

import itertools
import math

import pytest

from regularization.study.analysis.looks import SCHEDULE, fixed_alpha, next_look, scheduled_alpha


def test_a_fixed_design_spends_5_percent_however_often_it_is_extended() -> None:
    alphas = [fixed_alpha(index) for index in range(5000)]
    assert alphas[0] == pytest.approx(0.04)
    assert alphas == sorted(alphas, reverse=True)
    assert 0.0499 < math.fsum(alphas) <= 0.05


def test_the_looks_of_until_decided_spend_5_percent_however_many_seeds_there_are() -> None:
    alphas = [scheduled_alpha(seeds) for seeds in range(5000)]
    assert 0.0499 < math.fsum(alphas) <= 0.05 + 1e-12
    assert all(alpha >= 0 for alpha in alphas)
    assert alphas[:2] == [0, 0], "one seed shows nothing"


def test_looks_are_due_exactly_where_the_schedule_says() -> None:
    looks = list(itertools.takewhile(lambda look: look < 5000, _looks()))
    assert looks[: len(SCHEDULE)] == list(SCHEDULE)
    assert looks[len(SCHEDULE) : len(SCHEDULE) + 3] == [25, 31, 39]
    assert {seeds for seeds in range(5000) if scheduled_alpha(seeds) > 0} == set(looks)


def test_the_next_look_comes_after_any_number_of_seeds() -> None:
    assert [next_look(seeds) for seeds in (0, 1, 2, 8, 9, 12, 19, 20, 24, 25)] == [2, 2, 3, 10, 10, 13, 20, 25, 25, 31]
    for seeds in range(500):
        assert next_look(seeds) > seeds
        assert scheduled_alpha(next_look(seeds)) > 0
        assert all(scheduled_alpha(between) == 0 for between in range(seeds + 1, next_look(seeds)))


def _looks() -> "itertools.accumulate[int]":
    return itertools.accumulate(itertools.count(), lambda look, _: next_look(look), initial=next_look(0))
