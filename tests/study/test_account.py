"""The looks at a study, which are saved in its folder: the levels that they spend, none of which is spent twice."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from regularization.study.account import LOOKS, add_look, later_alpha, read_looks
from regularization.study.analysis.comparison import ALPHA
from regularization.study.analysis.looks import fixed_alpha, scheduled_alpha
from regularization.study.config import Study
from regularization.study.results import Result
from tests.study.analysis.synthetic import make_results


def results(baseline: int, other: int) -> list[Result]:
    return make_results("none", [0.8] * baseline) + make_results("l1", [0.81] * other)


def test_a_fixed_design_spends_4_percent_once_and_less_for_each_extension(tmp_path: Path) -> None:
    study = Study(base="x", arms={"none": None, "l1": None})
    assert read_looks(tmp_path) == []
    looks = add_look(tmp_path, study, "none", results(3, 3))
    assert [(look.seeds, look.trials) for look in looks] == [(3, 6)]
    assert looks[0].alpha == pytest.approx(0.04)
    assert add_look(tmp_path, study, "none", results(3, 3)) == looks == read_looks(tmp_path), "nothing was added"
    extended = add_look(tmp_path, study, "none", results(3, 4))
    assert extended[:-1] == looks
    for seeds in range(5, 30):
        extended = add_look(tmp_path, study, "none", results(seeds, seeds))
        assert add_look(tmp_path, study, "none", results(seeds, seeds)) == extended
    alphas = [look.alpha for look in extended]
    assert len(alphas) == 27
    assert alphas == sorted(alphas, reverse=True)
    assert sum(alphas) < 0.05
    first = json.loads((tmp_path / LOOKS).read_text())[0]
    assert {name: first[name] for name in ("seeds", "trials", "alpha")} == {"seeds": 3, "trials": 6, "alpha": alphas[0]}


def test_other_trials_of_the_same_number_are_another_look(tmp_path: Path) -> None:
    study = Study(base="x", arms={"none": None, "l1": None})
    (first,) = add_look(tmp_path, study, "none", results(3, 3))
    swapped = [replace(result, arm="l2" if result.arm == "l1" else result.arm) for result in results(3, 3)]
    assert [look.alpha for look in add_look(tmp_path, study, "none", swapped)] == [first.alpha, fixed_alpha(1)]
    later = [replace(result, seed=result.seed + 3) for result in swapped]
    assert len(add_look(tmp_path, study, "none", later)) == 3
    # A record of an older version does not name the trials.
    old = {"seeds": 3, "trials": 6, "alpha": first.alpha}
    (tmp_path / LOOKS).write_text(json.dumps([old]))
    assert len(add_look(tmp_path, study, "none", results(3, 3))) == 1


def test_more_seeds_are_judged_at_the_level_of_the_next_look(tmp_path: Path) -> None:
    fixed = Study(base="x", arms={"none": None, "l1": None})
    assert later_alpha(fixed, [])(9) == fixed_alpha(0)
    assert later_alpha(fixed, add_look(tmp_path, fixed, "none", results(3, 3)))(9) == fixed_alpha(1)
    decided = replace(fixed, until="decided")
    assert [later_alpha(decided, [])(seeds) for seeds in (1, 2, 9, 10)] == [
        scheduled_alpha(seeds) for seeds in (2, 2, 8, 10)
    ]
    assert later_alpha(replace(fixed, base=""), [])(9) == ALPHA, "runs outside of a study are looked at only once"


def test_until_decided_spends_only_where_a_look_is_due_and_only_once(tmp_path: Path) -> None:
    study = Study(base="x", arms={"none": None, "l1": None}, until="decided")
    assert add_look(tmp_path, study, "none", results(1, 2)) == []
    assert not (tmp_path / LOOKS).exists()
    for baseline, other in itertools.product((2, 3, 4), (2, 3, 4)):
        add_look(tmp_path, study, "none", results(baseline, other))
    assert [(look.seeds, look.trials) for look in read_looks(tmp_path)] == [(2, 4), (3, 5), (4, 6)]
    # No look is due at 9 seeds; at 10 there is one, though those at 5 to 8 were missed.
    assert len(add_look(tmp_path, study, "none", results(9, 9))) == 3
    assert [look.seeds for look in add_look(tmp_path, study, "none", results(10, 9))] == [2, 3, 4, 10]
    for seeds in range(2, 200):
        add_look(tmp_path, study, "none", results(seeds, 2))
    assert sum(look.alpha for look in read_looks(tmp_path)) <= 0.05


def test_a_study_without_a_baseline_has_looks_too(tmp_path: Path) -> None:
    study = Study(base="x", arms={"none": None, "l1": None})
    assert [look.seeds for look in add_look(tmp_path, study, None, results(3, 3))] == [0]
