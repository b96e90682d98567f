"""The answer card, word for word, and the names of options in figures."""

from dataclasses import astuple

import numpy as np
import pytest

from regularization.study.analysis.conclusion import Context, draw_conclusion
from regularization.study.config import Study
from regularization.study.report.axes import axis_name
from regularization.study.report.card import answer_card
from regularization.study.results import Result
from tests.study.analysis.synthetic import make_results, results_on_axis


def card_of(results: list[Result], study: Study, baseline: str | None) -> tuple[str, str, list[tuple[str, str, str]]]:
    card = answer_card(draw_conclusion(results, study, Context(baseline)), results, study)
    return card.verdict, card.kind, [astuple(fact) for fact in card.facts]


def arms(*gains: float, test: float | None = None) -> tuple[list[Result], Study]:
    """Named arms, the baseline first, with three seeds each, whose differences vary by 0.06 points."""
    names = ["none", *(f"arm {number}" for number in range(1, len(gains)))]
    results = []
    for number, (name, gain) in enumerate(zip(names, gains, strict=True)):
        noise = np.roll([0.0004, 0.0, -0.0004], number)
        accuracies = [float(value) for value in 0.8 + gain / 100 + np.array([0.0, 0.01, 0.02]) + noise]
        results += make_results(name, accuracies, test_accuracy=None if test is None else test + gain / 100)
    return results, Study(base="x", arms=dict.fromkeys(names))


def test_a_study_that_helps() -> None:
    verdict, kind, facts = card_of(*arms(0, 1.5, test=0.79), "none")
    assert (verdict, kind) == ("arm 1 helps", "helps")
    assert facts[0][:2] == ("gain over none", "+1.50 points")
    assert facts[0][2].startswith("95% interval +1.")
    assert facts[1:] == [
        ("recommended", "arm 1", ""),
        ("validation accuracy", "82.50%", "none: 81.00%"),
        ("test accuracy", "80.50%", "none: 79.00%"),
        ("total training time", "6 min 0 s", "6 trials, 600 steps"),
    ]


def test_accuracies_that_are_compared_are_those_of_common_seeds() -> None:
    results, study = arms(0, 1.5, test=0.79)
    more = make_results("none", [0.0] * 4, test_accuracy=0.0)[3:]
    *_, facts = card_of(results + more, study, "none")
    assert facts[2:4] == [
        ("validation accuracy, 3 seeds", "82.50%", "none: 81.00%"),
        ("test accuracy, 3 seeds", "80.50%", "none: 79.00%"),
    ]


@pytest.mark.parametrize(
    ("gains", "verdict", "kind"),
    [
        ((0, -3, -2), "All arms hurt", "hurts"),
        ((0, 0.0, -2), "No difference that matters", "none"),
        ((0, 0.1, 0.9), "arm 2 helps", "helps"),
    ],
)
def test_the_verdict_on_arms(gains: tuple[float, ...], verdict: str, kind: str) -> None:
    results, study = arms(*gains)
    assert card_of(results, study, "none")[:2] == (verdict, kind)


def test_the_verdict_on_one_option() -> None:
    results, study = results_on_axis([0, -3, -4, -5])
    verdict, kind, facts = card_of(results, study, "λ=0")
    assert (verdict, kind) == ("Weight decay hurts", "hurts")
    assert facts[0][0] == "gain in validation accuracy"
    assert facts[0][1].startswith("≤ -")
    assert facts[1][:2] == ("recommended: weight decay λ", "0")
    results, study = results_on_axis([0, 2, 1, 0.5])
    verdict, kind, facts = card_of(results, study, "λ=0")
    assert (verdict, kind) == ("Weight decay helps", "helps")
    assert facts[1][0] == "recommended: weight decay λ"


def test_an_undecided_study_and_one_without_a_baseline() -> None:
    results = make_results("none", [0.8, 0.81]) + make_results("l1", [0.82, 0.79])
    study = Study(base="x", arms={"none": None, "l1": None})
    verdict, kind, facts = card_of(results, study, "none")
    assert (verdict, kind) == ("Undecided so far", "undecided")
    assert facts[1][0] == "looks best so far"
    verdict, kind, facts = card_of(results, study, None)
    assert (verdict, kind) == ("Not compared: there is no baseline", "undecided")
    assert [label for label, *_ in facts] == ["recommended", "validation accuracy", "total training time"]


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("model.optimizer.weight_decay", "weight decay λ"),
        ("model.optimizer.init_args.weight_decay", "weight decay λ"),
        ("model.optimizer.lr", "learning rate η"),
        ("model.timescale_epochs", "timescale τ in epochs"),
        ("model.penalties.l1.init_args.strength", "strength λ of l1"),
        ("model.penalties.l1.strength", "strength λ of l1"),
        ("model.label_smoothing", "label smoothing"),
        ("data.batch_size", "batch size"),
    ],
)
def test_options_have_names_in_words(option: str, name: str) -> None:
    assert axis_name(option) == name
