"""The conclusion of a study, drawn from synthetic results."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regularization.study.analysis.conclusion import draw_conclusion
from regularization.study.config import Study
from regularization.study.results import Result

LAMBDA = "model.optimizer.weight_decay"


def make_results(arm: str, accuracies: list[float], **options: Any) -> list[Result]:
    """The results of one arm, one per seed."""
    clean, decay = options.pop("clean", 0.9), options.pop("decay", 5.0)
    results = []
    for seed, accuracy in enumerate(accuracies):
        row = {"epoch": 9.0, "step": 100.0, "val_accuracy": accuracy, "clean_accuracy": clean, "seconds": 1.0}
        row["accumulated_decay"] = decay
        fields: dict[str, Any] = {
            "group": arm,
            "values": {},
            "stage": "final",
            "folder": Path(),
            "weight_decay": 0.0,
            "timescale": None,
        }
        fields |= {"test_accuracy": None, "pruned": False, "unregularized": arm in ("none", "0", "λ=0"), **options}
        results.append(Result(arm=arm, seed=seed, accuracy=accuracy, row=row, rows=[row], **fields))
    return results


def results_on_axis(means: list[float], spread: float = 0.002, **options: Any) -> tuple[list[Result], Study]:
    """One arm per mean, the first with λ = 0, with three seeds each."""
    values = [0, *(10.0 ** -(len(means) - index) for index in range(1, len(means)))]
    results = []
    for value, mean in zip(values, means, strict=True):
        accuracies = [mean - spread, mean, mean + spread]
        results += make_results(f"λ={value:g}", accuracies, values={LAMBDA: value}, **options)
    return results, Study(base="x", vary={LAMBDA: values})


def test_at_most_5_percent_of_studies_with_equal_arms_claim_an_effect() -> None:
    """2,000 studies of seven equal arms with three seeds each: the sentence may claim an effect in at most 5%."""
    generator = np.random.default_rng(0)
    claims = 0
    for _ in range(2000):
        values = [0.0, *(10.0**exponent for exponent in range(-6, 0))]
        results = [
            result
            for value in values
            for result in make_results(f"{value:g}", list(generator.normal(0.8, 0.004, 3)), values={LAMBDA: value})
        ]
        sentence = draw_conclusion(results, Study(base="x", vary={LAMBDA: values}), "0").sentence
        claims += "Regularization helps" in sentence or "Regularization hurts" in sentence
    assert claims / 2000 <= 0.05
    print(f"{claims} of 2000 studies claimed an effect")


def test_a_clear_gain_is_claimed_with_its_numbers() -> None:
    results, study = results_on_axis([0.70, 0.75, 0.80, 0.75, 0.10])
    conclusion = draw_conclusion(results, study, "λ=0")
    assert conclusion.chosen.name == "λ=0.001"
    assert conclusion.sentence.startswith(
        "Regularization helps: λ=0.001 reaches 80.00% validation accuracy, +10.00 points"
    )
    assert conclusion.seeds_needed is None


def test_choose_selects_among_the_values_indistinguishable_from_the_best() -> None:
    results, study = results_on_axis([0.70, 0.7995, 0.7998, 0.80, 0.60])
    assert draw_conclusion(results, study, "λ=0").indistinguishable == ["λ=0.0001", "λ=0.001", "λ=0.01"]
    for choose, index in (("middle", 1), ("best", 2), ("strongest", 2)):
        study.choose = choose  # type: ignore[assignment]
        conclusion = draw_conclusion(results, study, "λ=0")
        assert conclusion.chosen.name == conclusion.indistinguishable[index]


def test_remarks_name_arms_that_underfit_or_have_little_effect() -> None:
    weak = make_results("weak", [0.80, 0.81, 0.80], decay=0.01)
    none = make_results("none", [0.80, 0.81, 0.79], decay=0.0)
    strong = make_results("strong", [0.30, 0.31, 0.30], clean=0.31, decay=500.0)
    conclusion = draw_conclusion([*none, *weak, *strong], Study(base="x", arms={"x": None}), "none")
    assert [arm.effect for arm in conclusion.arms] == ["", "little effect", "underfits"]
    assert "little effect: weak" in conclusion.remarks
    assert "underfits: strong" in conclusion.remarks


def test_unordered_arms_that_are_not_significantly_different() -> None:
    results = (
        make_results("none", [0.80, 0.81, 0.79])
        + make_results("l1", [0.81, 0.80, 0.815])
        + make_results("bad", [0.1, 0.1, 0.1])
    )
    conclusion = draw_conclusion(results, Study(base="x", arms={"x": None}), "none")
    assert conclusion.indistinguishable == ["none", "l1"]
    assert conclusion.sentence.startswith("No effect could be shown: l1 reaches")
    assert conclusion.seeds_needed is not None
    needed = f"About {conclusion.seeds_needed} seeds per arm would be needed to detect a difference of this size."
    assert conclusion.sentence.endswith(f"corrected). {needed}")


def test_one_seed_per_arm_allows_no_conclusion() -> None:
    results = make_results("none", [0.8]) + make_results("l1", [0.9])
    sentence = draw_conclusion(results, Study(base="x", arms={"x": None}), "none").sentence
    assert sentence.endswith("and none 80.00%; with one seed per arm, no conclusion can be drawn.")


def test_the_baseline_is_chosen_if_regularization_hurts() -> None:
    results, study = results_on_axis([0.80, 0.70, 0.60])
    assert "does not help here" in draw_conclusion(results, study, "λ=0").sentence
    worse = make_results("none", [0.80, 0.81, 0.80]) + make_results("l1", [0.70, 0.71, 0.70])
    assert "does not help here: none" in draw_conclusion(worse, Study(base="x", arms={"x": None}), "none").sentence


def test_paired_studies_compare_arms_with_equal_seeds() -> None:
    none = make_results("none", [0.70, 0.75, 0.80, 0.85])
    better = make_results("better", [0.71, 0.76, 0.81, 0.8601])
    study = Study(base="x", arms={"x": None})
    assert "No effect" in draw_conclusion([*none, *better], study, "none").sentence
    study.paired = True
    conclusion = draw_conclusion([*none, *better], study, "none")
    assert conclusion.sentence.startswith("Regularization helps: better")
    assert any("correlation with the baseline: better +1.00" in remark for remark in conclusion.remarks)


@pytest.mark.parametrize("arms", [1, 2])
def test_without_a_baseline_the_best_arm_is_recommended(arms: int) -> None:
    results = (make_results("a", [0.8, 0.81]) + make_results("b", [0.7, 0.71]))[: 2 * arms]
    conclusion = draw_conclusion(results, Study(base="x", arms={"x": None}), None)
    assert conclusion.chosen.name == "a"
    assert conclusion.sentence.startswith("a is recommended: 80.50% validation accuracy")


def test_arms_are_in_the_order_of_their_values_not_of_their_names() -> None:
    values = [0, 1e-5, 1e-4, 1e-1]
    results = [
        result for value in values[::-1] for result in make_results(f"{value:g}", [0.8, 0.81], values={LAMBDA: value})
    ]
    conclusion = draw_conclusion(
        sorted(results, key=lambda result: result.arm), Study(base="x", vary={LAMBDA: values}), "0"
    )
    assert [arm.name for arm in conclusion.arms] == ["0", "1e-05", "0.0001", "0.1"]
    named = make_results("b", [0.8, 0.81]) + make_results("a", [0.8, 0.81])
    conclusion = draw_conclusion(named, Study(base="x", arms={"b": None, "a": None}), "b")
    assert [arm.name for arm in conclusion.arms] == ["b", "a"]


def test_the_sentence_mentions_regularization_only_if_the_baseline_alone_has_none() -> None:
    """If the baseline is regularized, or the better arm is not, the difference is not attributed to regularization."""
    strong = make_results("strong", [0.70, 0.71, 0.70])
    none = make_results("none", [0.80, 0.81, 0.80])
    sentence = draw_conclusion([*strong, *none], Study(base="x", arms={"x": None}), "strong").sentence
    assert sentence.startswith("none reaches 80.33% validation accuracy, +10.00 points compared with strong")
    fast = make_results("fast", [0.9, 0.91, 0.9], unregularized=True)
    sentence = draw_conclusion([*none, *fast], Study(base="x", arms={"x": None}), "none").sentence
    assert sentence.startswith("fast reaches")


def test_an_arm_with_a_failed_seed_is_not_recommended() -> None:
    results = make_results("none", [0.7, 0.71, 0.7]) + make_results("wild", [0.9, 0.91])
    conclusion = draw_conclusion(
        results, Study(base="x", arms={"x": None}), "none", {"wild": ["seed 2: training diverged"]}
    )
    assert conclusion.chosen.name == "none"
    assert conclusion.remarks[0] == "wild is not recommended; failed trials: seed 2: training diverged"


def test_strongest_chooses_the_shortest_timescale() -> None:
    option = "model.timescale_epochs"
    results = [
        result for value in (1.0, 10.0) for result in make_results(f"{value:g}", [0.8, 0.81], values={option: value})
    ]
    study = Study(base="x", vary={option: [1.0, 10.0]}, choose="strongest")
    assert draw_conclusion(results, study, None).chosen.name == "1"


def test_seeds_needed_agrees_with_the_significance_test() -> None:
    """A difference that is not significant has an interval around 0, and at least two seeds are needed to detect it."""
    generator = np.random.default_rng(1)
    for _ in range(50):
        results = [
            result for index in range(8) for result in make_results(f"{index}", list(generator.normal(0.8, 0.004, 3)))
        ]
        conclusion = draw_conclusion(results, Study(base="x", arms={f"{index}": None for index in range(8)}), "0")
        assert conclusion.seeds_needed is None or conclusion.seeds_needed >= 2
        comparison = conclusion.chosen.comparison
        if comparison is not None and not comparison.p < 0.05 and conclusion.seeds_needed is not None:
            assert comparison.low <= 0 <= comparison.high or comparison.p < 0.06
