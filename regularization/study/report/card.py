"""The answer card at the top of a report: the verdict, the gain, the recommended value, and the cost."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from regularization.callbacks.history import format_duration
from regularization.study.analysis.arms import common_means
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.analysis.regularizers import kind_of
from regularization.study.analysis.sentences import format_interval, format_percent
from regularization.study.analysis.verdicts import Answer, Verdict
from regularization.study.config import Study
from regularization.study.report.axes import axis_name
from regularization.study.results import Result


@dataclass(frozen=True)
class Fact:
    """One number of the card: its label, its value, and a note in small letters."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class AnswerCard:
    """The answer of a study at a glance.

    Attributes:
        verdict: The verdict in a few words, such as ``Weight decay helps``.
        kind: ``helps``, ``hurts``, ``none`` or ``undecided``; it determines the color of the card.
        facts: The numbers.
    """

    verdict: str
    kind: str
    facts: list[Fact]


def answer_card(conclusion: Conclusion, results: Sequence[Result], study: Study) -> AnswerCard:
    """The card of a study.

    Args:
        conclusion: The conclusion of the study.
        results: All finished runs, those of a search included.
        study: The study's config.
    """
    verdict, kind = _verdict(conclusion, study)
    facts = [_gain(conclusion), _recommended(conclusion, study), *_accuracies(conclusion, study), _cost(results)]
    return AnswerCard(verdict, kind, [fact for fact in facts if fact is not None])


def _verdict(conclusion: Conclusion, study: Study) -> tuple[str, str]:
    chosen, baseline = conclusion.chosen, conclusion.baseline
    if conclusion.answer is None or baseline is None:
        return "Not compared: there is no baseline", "undecided"
    if conclusion.answer == Answer.UNDECIDED:
        return "Undecided so far", "undecided"
    others = [arm for arm in conclusion.arms if arm is not baseline]
    if conclusion.answer == Answer.HELPS:
        attributed = baseline.unregularized and not chosen.unregularized
        return f"{kind_of(chosen, study) if attributed else chosen.name} helps", "helps"
    subject = kind_of(others[-1], study) if study.axis and baseline.unregularized else "No arm"
    if all(arm.verdict == Verdict.HURTS for arm in others):
        return f"{subject} hurts" if study.axis else "All arms hurt", "hurts"
    if all(arm.verdict in (Verdict.HURTS, Verdict.NO_DIFFERENCE) for arm in others):
        return "No difference that matters", "none"
    return f"{subject} does not help" if study.axis else "No arm helps", "none"


def _gain(conclusion: Conclusion) -> Fact | None:
    objective = conclusion.chosen.objective
    compared = [arm for arm in conclusion.candidates if arm.comparison is not None]
    if not compared or conclusion.baseline is None:
        return None
    if conclusion.answer == Answer.NONE_HELPS:
        end = objective.with_unit(objective.format_difference(max(arm.interval[1] for arm in compared)))
        return Fact(f"gain in {objective.name}", f"≤ {end}", "upper end of all intervals")
    comparison = conclusion.chosen.comparison
    if comparison is None:
        return None
    interval = "" if math.isnan(comparison.low) else f"95% interval {format_interval(comparison, objective)}"
    gain = objective.with_unit(objective.format_difference(comparison.difference))
    return Fact(f"gain over {conclusion.baseline.name}", gain, interval)


def _recommended(conclusion: Conclusion, study: Study) -> Fact:
    chosen = conclusion.chosen
    label = "looks best so far" if conclusion.answer == Answer.UNDECIDED else "recommended"
    note = f"τ = {chosen.timescale:.3g} epochs" if chosen.timescale else ""
    if study.axis:
        return Fact(f"{label}: {axis_name(study.axis)}", f"{chosen.results[0].values[study.axis]:g}", note)
    values = [f"{axis_name(option)} {chosen.results[0].values[option]:g}" for option in study.vary]
    return Fact(label, ", ".join(values) or chosen.name, note)


def _accuracies(conclusion: Conclusion, study: Study) -> list[Fact]:
    """The objective and the test accuracy of the chosen arm, beside those of the baseline with the same seeds."""
    objective, chosen = conclusion.chosen.objective, conclusion.chosen
    shown: list[tuple[str, Callable[[Result], float | None], Callable[[float], str]]] = [
        (objective.name, chosen.value_of, objective.format),
        ("test accuracy", lambda result: result.test_accuracy, format_percent),
    ]
    facts = []
    for label, value, show in shown:
        baseline = conclusion.baseline or chosen
        means = common_means(chosen, baseline, value, study.paired)
        compared = baseline is not chosen and not math.isnan(means.baseline)
        note = f"{baseline.name}: {show(means.baseline)}" if compared else ""
        label += f", {means.seeds} seeds" if compared and means.seeds else ""
        facts += [] if math.isnan(means.arm) else [Fact(label, show(means.arm), note)]
    return facts


def _cost(results: Sequence[Result]) -> Fact:
    seconds, steps = sum(result.seconds for result in results), sum(result.steps for result in results)
    trials = "1 trial" if len(results) == 1 else f"{len(results):,} trials"
    return Fact("total training time", format_duration(seconds), f"{trials}, {steps:,} steps")
