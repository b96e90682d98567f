"""The conclusion in words: one sentence that answers, and remarks that qualify it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from regularization.callbacks.history import format_duration
from regularization.models.objective import ACCURACY, Objective
from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.comparison import ALPHA, Comparison
from regularization.study.analysis.regularizers import kind_of, others_in
from regularization.study.analysis.verdicts import Answer, Verdict
from regularization.study.config import Study

if TYPE_CHECKING:
    from regularization.study.analysis.conclusion import Conclusion, Context

# Other metrics whose changes are named: in words, the format of their values, and whether higher is better.
METRICS = {
    "val_accuracy": ("validation accuracy", ".2%", True),
    "val_loss": ("validation loss", ".3g", False),
    "val_calibration_error": ("calibration error", ".2g", False),
    "weight_norm": ("norm of the weights", ".3g", None),
}
# A change is named if it is at least this factor.
NOTABLE_RATIO = 1.2
# Between values that are further apart than this factor, a better one may have been missed.
WIDE_STEP = 3.5


def answer(conclusion: "Conclusion", study: Study, context: "Context") -> str:
    """The sentence that answers the question of the study."""
    sentence = _answer(conclusion, study, context)
    if all(arm.name in context.failures for arm in conclusion.arms):
        sentence = f"Every arm has a failed trial. {sentence}"
    if context.searching:
        sentence = f"The search has not finished. So far: {sentence}"
    elif context.missing:
        sentence = f"With {context.missing} trial{'s' if context.missing > 1 else ''} still missing: {sentence}"
    if failed := [name for name in context.without_result if name != context.baseline]:
        sentence += f" All trials of {', '.join(failed)} failed."
    return sentence


def _answer(conclusion: "Conclusion", study: Study, context: "Context") -> str:
    if conclusion.baseline is None or conclusion.answer is None:
        return _recommended(conclusion, context)
    if conclusion.answer == Answer.HELPS:
        return _helps(conclusion, conclusion.baseline, study)
    if conclusion.answer == Answer.NONE_HELPS:
        return _none_helps(conclusion, conclusion.baseline, study)
    return _undecided(conclusion, conclusion.baseline, study, context)


def _recommended(conclusion: "Conclusion", context: "Context") -> str:
    chosen, baseline = conclusion.chosen, context.baseline
    objective = chosen.objective
    extreme = "highest" if objective.mode == "max" else "lowest"
    highest = f"{_name(chosen)} has the {extreme} {objective.name}: {objective.format(chosen.mean)}"
    if baseline is None:
        return f"{highest}. Name a baseline to compare the arms."
    state = "all of its trials failed" if baseline in context.without_result else "none of its trials has finished"
    return f"Nothing can be compared with the baseline {baseline}: {state}. {highest}."


def _helps(conclusion: "Conclusion", baseline: ArmSummary, study: Study) -> str:
    chosen = conclusion.chosen
    assert chosen.comparison is not None
    # The difference is due to regularization only if the baseline has none and the arm does.
    attributed = baseline.unregularized and not chosen.unregularized
    opening = f"{kind_of(chosen, study)} helps: use {_name(chosen)}" if attributed else f"{_name(chosen)} helps"
    opening += ", with the learning rate chosen for each arm" if study.learning_rates else ""
    objective, gain = chosen.objective, conclusion.gain
    least = objective.with_unit(objective.format_difference(chosen.comparison.low).removeprefix("+"))
    if objective.mode == "max":
        gains = f"It gains at least {least} of {objective.name} over {baseline.name}"
    else:
        gains = f"It lowers {objective.with_article} by at least {least} compared with {baseline.name}"
    text = objective.with_unit(objective.format_difference(gain))
    estimate = "" if math.isnan(gain) else f"; cross-validated: {text}"
    return f"{opening}. {gains} ({_interval(chosen)}{estimate})."


def _none_helps(conclusion: "Conclusion", baseline: ArmSummary, study: Study) -> str:
    compared = [arm for arm in conclusion.arms if arm.comparison is not None]
    highest = max(compared, key=lambda arm: arm.interval[1])
    what = "No λ that was tried" if study.vary else "No arm"
    objective = baseline.objective
    end = objective.with_unit(objective.format_difference(highest.interval[1]))
    bound = f"the intervals end at {end} or lower ({highest.name})"
    least = objective.format_resolution(study.resolution) + ("" if objective == ACCURACY else f" in {objective.name}")
    sentence = f"{what} helps by more than {least} compared with {baseline.name}: {bound}."
    return f"{sentence} {_harm(conclusion.arms, study)}".rstrip()


def _harm(arms: Sequence[ArmSummary], study: Study) -> str:
    """From which λ on regularization hurts; or the arms that hurt."""
    hurting = [arm for arm in arms if arm.verdict == Verdict.HURTS]
    if not hurting:
        return ""
    if study.axis and hurting == list(arms[-len(hurting) :]):
        objective = hurting[0].objective
        loss = objective.with_unit(objective.format_difference(hurting[0].difference))
        comparison = hurting[0].comparison
        assert comparison is not None
        loss += f", {format_interval(comparison, objective)}"
        return f"From {hurting[0].name} on, it hurts ({loss})."
    return f"It hurts: {', '.join(arm.name for arm in hurting)}."


def _undecided(conclusion: "Conclusion", baseline: ArmSummary, study: Study, context: "Context") -> str:
    chosen = conclusion.chosen
    if chosen.comparison is None:
        reason = ": all others have failed trials" if len(conclusion.arms) > 1 else ""
        return f"Undecided so far: there is no arm yet that can be compared with {baseline.name}{reason}."
    objective = chosen.objective
    reference = f"{baseline.name} {objective.format(baseline.mean)}"
    reached = f"{_name(chosen)} reaches {objective.format(chosen.mean)} {objective.name} and {reference}"
    if math.isnan(chosen.comparison.low):
        return f"Undecided so far: {reached}; {_why_not_compared(chosen, baseline)}."
    difference = objective.with_unit(objective.format_difference(chosen.difference))
    gain = f"a {'gain' if chosen.difference >= 0 else 'difference'} of {difference} ({_interval(chosen)})"
    return f"Undecided so far: {reached}, {gain}. {_what_decides(conclusion, study, context)}".rstrip()


def _why_not_compared(chosen: ArmSummary, baseline: ArmSummary) -> str:
    if not {result.seed for result in chosen.results} & {result.seed for result in baseline.results}:
        return "they have no seed in common (paired: false compares them regardless)"
    if min(len(chosen.results), len(baseline.results)) < 2:
        return "a single seed shows no difference"
    return "without variation between seeds, nothing is shown"


def _what_decides(conclusion: "Conclusion", study: Study, context: "Context") -> str:
    """How many more seeds would decide, how long they take, and the command."""
    seeds = conclusion.seeds_needed
    if seeds is None:
        return "Even 1,000 seeds per arm would not decide."
    # With until: decided, only the arms that decide get more seeds; in a fixed design, all do.
    arms = [conclusion.chosen, conclusion.baseline] if study.until == "decided" else conclusion.arms
    trials = sum(max(0, seeds - len(arm.results)) for arm in arms if arm is not None)
    results = [result for arm in conclusion.arms for result in arm.results]
    seconds = sum(result.seconds for result in results) / len(results) * trials / context.workers
    if study.until == "seeds":
        option = f" --seeds {seeds}"
    else:
        # With a smaller number, a limit on trials or hours has ended the study.
        option = f" --max_seeds {seeds}" if seeds > study.max_seeds else ""
    command = f": {context.command}{option}" if context.command else ""
    cost = f"{trials} more trials, about {format_duration(seconds)} on this machine"
    return f"About {seeds} seeds per arm would decide ({cost}){command}"


def remarks(conclusion: "Conclusion", study: Study, context: "Context") -> list[str]:
    """Remarks on the arms, on what else λ changed, and on the base config."""
    needed = {conclusion.chosen.name, context.baseline}
    lines = [f"all trials of {name} failed: {reason}" for name, reason in context.without_result.items()]
    for name, reasons in context.failures.items():
        verdict = "has failed trials" if name in needed else "is not recommended; failed trials"
        lines += [f"{name} {verdict}: {'; '.join(reasons)}"] if name not in context.without_result else []
    if conclusion.baseline is None:
        return lines
    # With few seeds, the interval of a collapsed arm is very wide, although its loss is obvious.
    lines += [
        f"{arm.name} collapses: {arm.mean:.0%} against {conclusion.baseline.mean:.0%}"
        for arm in conclusion.arms
        if arm.verdict == Verdict.COLLAPSES
    ]
    for verdict in (verdict for verdict in Verdict if verdict != Verdict.COLLAPSES):
        if names := [arm.name for arm in conclusion.arms if arm.verdict == verdict]:
            lines.append(f"{_heading(verdict, conclusion, study)}: {', '.join(names)}")
    if sum(arm.verdict == Verdict.HELPS for arm in conclusion.arms) > 1:
        lines.append("which of the arms that help is the best has not been tested: each is compared with the baseline")
    lines += filter(None, (_changes(conclusion), _curve(conclusion, study), _end_of_range(conclusion, study)))
    options = {option for arm in conclusion.arms for option in arm.results[0].values}
    if others := others_in(conclusion.baseline.results[0].folder, options):
        lines.append(f"all arms also have: {', '.join(others)}")
    return lines


def _changes(conclusion: "Conclusion") -> str:
    """What else the recommended arm changed, for better or worse; without one, any arm that does not hurt."""
    arms = [arm for arm in (conclusion.chosen,) if arm.comparison is not None] or conclusion.arms
    # The metric that is the objective is no effect, and the norm is named where nothing else has changed.
    for metrics in (("val_accuracy", "val_loss", "val_calibration_error"), ("weight_norm",)):
        changes = [change for arm in arms for metric in metrics if (change := _change(conclusion, arm, metric))]
        if changes:
            return f"what else changed: {'; '.join(changes)}"
    return ""


def _end_of_range(conclusion: "Conclusion", study: Study) -> str:
    """That the best value of one option is the largest that was tried, or the largest that does not collapse."""
    if not study.axis or conclusion.answer != Answer.HELPS:
        return ""
    larger = conclusion.arms[conclusion.arms.index(conclusion.chosen) + 1 :]
    if not larger:
        return "the largest value is the best: add larger ones"
    values = [arm.results[0].values[study.axis] for arm in (conclusion.chosen, larger[0])]
    # Nothing was tried between the best value and a far too large one.
    if _collapsed(larger[0]) and values[1] > WIDE_STEP * values[0]:
        return f"the best value may lie between {values[0]:g} and {values[1]:g}, where nothing was tried: add values"
    return ""


def _heading(verdict: Verdict, conclusion: "Conclusion", study: Study) -> str:
    """The verdict; an arm that ``until: decided`` left undecided was not needed for the answer."""
    left = verdict == Verdict.UNDECIDED and study.until == "decided" and conclusion.answer != Answer.UNDECIDED
    return "undecided, and not followed up" if left else verdict


def _change(conclusion: "Conclusion", arm: ArmSummary, metric: str) -> str:
    """A significant and notable change in words, or nothing."""
    baseline, effect = conclusion.baseline, arm.effects.get(metric)
    if baseline is None or effect is None or not effect.p < ALPHA:
        return ""
    if arm.verdict == Verdict.HURTS or _collapsed(arm):
        return ""
    before, after = baseline.average(metric), arm.average(metric)
    if not min(before, after) > 0 or max(before, after) < NOTABLE_RATIO * min(before, after):
        return ""
    name, form, higher_is_better = METRICS[metric]
    judged = "" if higher_is_better is None else f"{'better' if (after > before) == higher_is_better else 'worse'}, "
    return f"{name} {after:{form}} with {arm.name} instead of {before:{form}} ({judged}{format_p(effect.p)})"


def _curve(conclusion: "Conclusion", study: Study) -> str:
    """The optimum of the smooth curve on one axis, or of the surface on two."""
    curve = conclusion.curve
    if curve is None:
        return ""
    ends = [np.atleast_1d(end).tolist() for end in (curve.best, curve.best_low, curve.best_high)]
    optimum = ", ".join(
        f"{option.rpartition('.')[2]} {best:.2g} (95% interval {low:.2g} to {high:.2g})"
        for option, best, low, high in zip(study.vary, *ends, strict=True)
    )
    text = f"smooth {'curve' if study.axis else 'surface'}: best {optimum}"
    if math.isnan(curve.probability):
        return text
    least = conclusion.chosen.objective.format_resolution(study.resolution)
    probability = "> 99%" if curve.probability > 0.99 else f"{curve.probability:.0%}"
    return f"{text}; it gains more than {least} with probability {probability}"


def _name(arm: ArmSummary) -> str:
    return f"{arm.name} (τ = {arm.timescale:.3g} epochs)" if arm.timescale else arm.name


def _collapsed(arm: ArmSummary) -> bool:
    return arm.difference < -arm.objective.collapse


def _interval(arm: ArmSummary) -> str:
    assert arm.comparison is not None
    return f"95% interval {format_interval(arm.comparison, arm.objective)}, {format_p(arm.comparison.p)}"


def format_interval(comparison: Comparison, objective: Objective = ACCURACY) -> str:
    """Formats both ends of an interval, in percentage points or in those of the objective."""
    return f"{objective.format_difference(comparison.low)} to {objective.format_difference(comparison.high)}"


def format_p(p: float) -> str:
    """Formats a p value; very small ones depend on the tails of the noise, and are given as a bound."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def format_percent(value: float) -> str:
    """Formats a fraction in percent."""
    return f"{value:.2%}"
