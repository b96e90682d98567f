"""What a study claims, on results that were made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regularization.study.conclusion import draw_conclusion
from regularization.study.config import Study
from regularization.study.results import Result

LAMBDA = "model.optimizer.weight_decay"


def made(arm: str, accuracies: list[float], **more: Any) -> list[Result]:
    """An arm's results, one a seed."""
    clean, decay = more.pop("clean", 0.9), more.pop("decay", 5.0)
    found = []
    for seed, accuracy in enumerate(accuracies):
        row = {"epoch": 9.0, "step": 100.0, "val_accuracy": accuracy, "clean_accuracy": clean, "seconds": 1.0}
        row["accumulated_decay"] = decay
        about: dict[str, Any] = {
            "group": arm,
            "values": {},
            "stage": "final",
            "folder": Path(),
            "weight_decay": 0.0,
            "timescale": None,
        }
        about |= {"test_accuracy": None, "pruned": False, "unregularized": arm in ("none", "0", "λ=0"), **more}
        found.append(Result(arm=arm, seed=seed, accuracy=accuracy, row=row, rows=[row], **about))
    return found


def on_axis(means: list[float], spread: float = 0.002, **more: Any) -> tuple[list[Result], Study]:
    values = [0, *(10.0 ** -(len(means) - place) for place in range(1, len(means)))]
    results = []
    for value, mean in zip(values, means, strict=True):
        results += made(f"λ={value:g}", [mean - spread, mean, mean + spread], values={LAMBDA: value}, **more)
    return results, Study(base="x", vary={LAMBDA: values})


def test_equal_arms_are_told_apart_in_at_most_5_of_100_studies() -> None:
    """2,000 studies of seven equal arms with three seeds each: the sentence may claim a difference in 5% of them."""
    generator = np.random.default_rng(0)
    claims = 0
    for _ in range(2000):
        values = [0.0, *(10.0**exponent for exponent in range(-6, 0))]
        results = [
            result
            for value in values
            for result in made(f"{value:g}", list(generator.normal(0.8, 0.004, 3)), values={LAMBDA: value})
        ]
        said = draw_conclusion(results, Study(base="x", vary={LAMBDA: values}), "0").sentence
        claims += "Regularization helps" in said or "Regularization hurts" in said
    assert claims / 2000 <= 0.05
    print(f"{claims} of 2000 claimed a difference")


def test_a_clear_gain_is_claimed_with_its_figures() -> None:
    results, study = on_axis([0.70, 0.75, 0.80, 0.75, 0.10])
    found = draw_conclusion(results, study, "λ=0")
    assert found.chosen.name == "λ=0.001"
    assert found.sentence.startswith("Regularization helps: λ=0.001 reaches 80.00% validation accuracy, +10.00 points")
    assert found.seeds_needed is None


def test_the_middle_of_what_cannot_be_told_from_the_best() -> None:
    results, study = on_axis([0.70, 0.7995, 0.7998, 0.80, 0.60])
    assert draw_conclusion(results, study, "λ=0").indistinguishable == ["λ=0.0001", "λ=0.001", "λ=0.01"]
    for choose, name in (("middle", 1), ("best", 2), ("strongest", 2)):
        study.choose = choose  # type: ignore[assignment]
        found = draw_conclusion(results, study, "λ=0")
        assert found.chosen.name == found.indistinguishable[name]


def test_too_strong_and_too_weak_are_named() -> None:
    weak = made("weak", [0.80, 0.81, 0.80], decay=0.01)
    none = made("none", [0.80, 0.81, 0.79], decay=0.0)
    strong = made("strong", [0.30, 0.31, 0.30], clean=0.31, decay=500.0)
    found = draw_conclusion([*none, *weak, *strong], Study(base="x", arms={"x": None}), "none")
    assert [arm.effect for arm in found.arms] == ["", "hardly acts", "underfits"]
    assert "hardly acts: weak" in found.remarks
    assert "underfits: strong" in found.remarks


def test_unordered_arms_that_cannot_be_told_apart() -> None:
    results = made("none", [0.80, 0.81, 0.79]) + made("l1", [0.81, 0.80, 0.815]) + made("bad", [0.1, 0.1, 0.1])
    found = draw_conclusion(results, Study(base="x", arms={"x": None}), "none")
    assert found.indistinguishable == ["none", "l1"]
    assert found.sentence.startswith("No effect could be shown: l1 reaches")
    assert found.seeds_needed is not None
    assert f"About {found.seeds_needed} seeds an arm" in found.sentence


def test_one_seed_claims_nothing() -> None:
    results = made("none", [0.8]) + made("l1", [0.9])
    said = draw_conclusion(results, Study(base="x", arms={"x": None}), "none").sentence
    assert "with one seed an arm nothing can be claimed" in said


def test_harm_is_called_harm_and_the_baseline_may_be_best() -> None:
    results, study = on_axis([0.80, 0.70, 0.60])
    assert "does not help here" in draw_conclusion(results, study, "λ=0").sentence
    worse = made("none", [0.80, 0.81, 0.80]) + made("l1", [0.70, 0.71, 0.70])
    assert "does not help here: none" in draw_conclusion(worse, Study(base="x", arms={"x": None}), "none").sentence


def test_pairs_by_seed_when_asked() -> None:
    none = made("none", [0.70, 0.75, 0.80, 0.85])
    better = made("better", [0.71, 0.76, 0.81, 0.8601])
    study = Study(base="x", arms={"x": None})
    assert "No effect" in draw_conclusion([*none, *better], study, "none").sentence
    study.paired = True
    found = draw_conclusion([*none, *better], study, "none")
    assert found.sentence.startswith("Regularization helps: better")
    assert any("correlation with the baseline: better +1.00" in remark for remark in found.remarks)


@pytest.mark.parametrize("arms", [1, 2])
def test_without_a_baseline_something_is_recommended(arms: int) -> None:
    results = (made("a", [0.8, 0.81]) + made("b", [0.7, 0.71]))[: 2 * arms]
    found = draw_conclusion(results, Study(base="x", arms={"x": None}), None)
    assert found.chosen.name == "a"
    assert found.sentence.startswith("a is recommended: 80.50% validation accuracy")


def test_arms_are_in_the_order_of_their_values_not_of_their_names() -> None:
    values = [0, 1e-5, 1e-4, 1e-1]
    results = [result for value in values[::-1] for result in made(f"{value:g}", [0.8, 0.81], values={LAMBDA: value})]
    found = draw_conclusion(sorted(results, key=lambda one: one.arm), Study(base="x", vary={LAMBDA: values}), "0")
    assert [arm.name for arm in found.arms] == ["0", "1e-05", "0.0001", "0.1"]
    named = made("b", [0.8, 0.81]) + made("a", [0.8, 0.81])
    assert [arm.name for arm in draw_conclusion(named, Study(base="x", arms={"b": None, "a": None}), "b").arms] == [
        "b",
        "a",
    ]


def test_what_is_not_about_regularization_is_not_said_of_it() -> None:
    """The baseline is itself regularized, or the better arm is not: one is better, regularization is not judged."""
    strong, none = made("strong", [0.70, 0.71, 0.70]), made("none", [0.80, 0.81, 0.80])
    said = draw_conclusion([*strong, *none], Study(base="x", arms={"x": None}), "strong").sentence
    assert said.startswith("none reaches 80.33% validation accuracy, +10.00 points against strong")
    slow, fast = made("none", [0.5, 0.51, 0.5]), made("fast", [0.8, 0.81, 0.8], unregularized=True)
    assert draw_conclusion([*slow, *fast], Study(base="x", arms={"x": None}), "none").sentence.startswith(
        "fast reaches"
    )


def test_an_arm_that_failed_with_a_seed_is_not_recommended() -> None:
    results = made("none", [0.7, 0.71, 0.7]) + made("wild", [0.9, 0.91])
    found = draw_conclusion(results, Study(base="x", arms={"x": None}), "none", {"wild": ["seed 2: training diverged"]})
    assert found.chosen.name == "none"
    assert found.remarks[0] == "not recommended, wild failed: seed 2: training diverged"


def test_the_strongest_timescale_is_the_shortest() -> None:
    option = "model.timescale_epochs"
    results = [one for value in (1.0, 10.0) for one in made(f"{value:g}", [0.8, 0.81], values={option: value})]
    study = Study(base="x", vary={option: [1.0, 10.0]}, choose="strongest")
    assert draw_conclusion(results, study, None).chosen.name == "1"


def test_the_number_of_seeds_is_for_the_test_that_is_made() -> None:
    """What three seeds have just failed to show, three seeds would not be enough to show."""
    generator = np.random.default_rng(1)
    for _ in range(50):
        results = [one for place in range(8) for one in made(f"{place}", list(generator.normal(0.8, 0.004, 3)))]
        found = draw_conclusion(results, Study(base="x", arms={f"{place}": None for place in range(8)}), "0")
        assert found.seeds_needed is None or found.seeds_needed >= 2
        chosen = found.chosen.comparison
        if chosen is not None and not chosen.p < 0.05 and found.seeds_needed is not None:
            assert chosen.low <= 0 <= chosen.high or chosen.p < 0.06
