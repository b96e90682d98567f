"""Remarks on a conclusion: the verdicts of the arms, what else λ changed, and what should be tried next."""

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from regularization.study.analysis.arms import ArmSummary, common_means
from regularization.study.analysis.changes import change_of
from regularization.study.analysis.regularizers import others_in
from regularization.study.analysis.sentences import format_p, format_percent, with_option
from regularization.study.analysis.verdicts import Answer, Verdict
from regularization.study.config import Study

if TYPE_CHECKING:
    from regularization.study.analysis.conclusion import Conclusion, Context

# Between values that are further apart than this factor, a better one may have been missed.
WIDE_STEP = 3.5
# Options that take any positive number, so that larger values can be suggested.
UNBOUNDED = ("weight_decay", ".strength")


def remarks_on(conclusion: "Conclusion", study: Study, context: "Context") -> list[str]:
    """Remarks on the arms, on what else λ changed, and on the base config."""
    lines = _failures(conclusion, context)
    if conclusion.baseline is None:
        return lines
    lines += _verdicts(conclusion, conclusion.baseline, study)
    if sum(arm.verdict == Verdict.HELPS for arm in conclusion.arms) > 1:
        lines.append("the arms that help have not been compared with each other, only with the baseline")
    further = (
        _corrected(conclusion),
        _tested(conclusion, conclusion.baseline, study),
        _changes(conclusion),
        _curve(conclusion, study),
        _add_values(conclusion, study, context),
    )
    lines += filter(None, further)
    options = {option for arm in conclusion.arms for option in arm.results[0].values}
    if others := others_in(conclusion.baseline.results[0].folder, options):
        lines.append(f"all arms also have: {', '.join(others)}")
    return lines


def _failures(conclusion: "Conclusion", context: "Context") -> list[str]:
    needed = {conclusion.chosen.name, context.baseline}
    lines = [f"all trials of {name} failed: {reason}" for name, reason in context.without_result.items()]
    for name, reasons in context.failures.items():
        verdict = "has failed trials" if name in needed else "is not recommended; failed trials"
        lines += [f"{name} {verdict}: {'; '.join(reasons)}"] if name not in context.without_result else []
    return lines


def _verdicts(conclusion: "Conclusion", baseline: ArmSummary, study: Study) -> list[str]:
    """The arms by verdict."""
    # With few seeds, the interval of a collapsed arm is very wide, although its loss is obvious.
    lines = [
        f"{arm.name} collapses: {arm.objective.name} {arm.objective.format(arm.mean)}, compared with "
        f"{baseline.objective.format(baseline.mean)} for {baseline.name}"
        for arm in conclusion.arms
        if arm.verdict == Verdict.COLLAPSES
    ]
    for verdict in (verdict for verdict in Verdict if verdict != Verdict.COLLAPSES):
        if names := [arm.name for arm in conclusion.arms if arm.verdict == verdict]:
            lines.append(f"{_heading(verdict, conclusion, study)}: {', '.join(names)}")
    return lines


def _heading(verdict: Verdict, conclusion: "Conclusion", study: Study) -> str:
    """The verdict; an arm that ``until: decided`` left undecided was not needed for the answer."""
    if verdict != Verdict.UNDECIDED or study.until != "decided" or conclusion.answer == Answer.UNDECIDED:
        return verdict
    seeds = sorted({len(arm.results) for arm in conclusion.arms if arm.verdict == verdict})
    number = " to ".join(map(str, {seeds[0]: 0, seeds[-1]: 0}))
    return f"undecided with {number} seeds per arm, but not needed for the answer"


def _corrected(conclusion: "Conclusion") -> str:
    """The cross-validated gain, if the choice of the best arm has made its own gain too high."""
    chosen, objective = conclusion.chosen, conclusion.chosen.objective
    compared = [arm for arm in conclusion.arms if arm.comparison is not None]
    if conclusion.answer != Answer.HELPS or len(compared) < 2 or not conclusion.gain < chosen.difference:
        return ""
    before, gain = (objective.with_unit(objective.format_difference(it)) for it in (chosen.difference, conclusion.gain))
    if gain == before:
        return ""
    return f"the best of several arms looks better than it is: cross-validated over seeds, its gain is {gain}"


def _tested(conclusion: "Conclusion", baseline: ArmSummary, study: Study) -> str:
    """The test accuracy of the recommended arm and of the baseline, means over their common seeds."""
    chosen = conclusion.chosen
    means = common_means(chosen, baseline, lambda result: result.test_accuracy, study.paired)
    accuracies = {chosen.name: means.arm, baseline.name: means.baseline}
    tested = [f"{format_percent(value)} with {name}" for name, value in accuracies.items() if not math.isnan(value)]
    # The test images are evaluated once; a study that goes on may recommend another arm later.
    late = f" ({chosen.name} was not recommended when the test images were evaluated)" if math.isnan(means.arm) else ""
    return f"test accuracy: {', '.join(tested)}{late}" if tested else ""


def _changes(conclusion: "Conclusion") -> str:
    """What else the recommended arm changed, for better or worse; without one, any arm that does not hurt."""
    if conclusion.baseline is None:
        return ""
    arms = [arm for arm in (conclusion.chosen,) if arm.comparison is not None] or conclusion.arms
    # The objective itself is not one of the effects. The norm is named only if nothing else has changed.
    for metrics in (("val_accuracy", "val_loss", "val_calibration_error"), ("weight_norm",)):
        changes = [_change(conclusion.baseline, arm, metric) for arm in arms for metric in metrics]
        if any(changes):
            return f"what else changed: {'; '.join(filter(None, changes))}"
    return ""


def _change(baseline: ArmSummary, arm: ArmSummary, metric: str) -> str:
    if (change := change_of(arm, baseline, metric)) is None:
        return ""
    judged = "" if change.is_better is None else f"{'better' if change.is_better else 'worse'}, "
    before, after = (format(value, change.metric.spec) for value in (change.before, change.after))
    return f"{change.metric.name} {after} with {arm.name} instead of {before} ({judged}adjusted {format_p(change.p)})"


def _curve(conclusion: "Conclusion", study: Study) -> str:
    """The optimum of the smooth curve on one axis, or of the surface on two, unless it is at an end of the range."""
    curve = conclusion.curve
    if curve is None or (study.axis and curve.best in (curve.values[0], curve.values[-1])):
        return ""
    ends = [np.atleast_1d(end).tolist() for end in (curve.best, curve.best_low, curve.best_high)]
    optimum = ", ".join(
        f"{option.rpartition('.')[2]} {best:.2g} (95% interval {low:.2g} to {high:.2g})"
        for option, best, low, high in zip(study.vary, *ends, strict=True)
    )
    return f"best by the smooth {'curve' if study.axis else 'surface'}: {optimum}"


def _add_values(conclusion: "Conclusion", study: Study, context: "Context") -> str:
    """The values to add if the best one is the largest that was tried, or the largest that does not collapse or fail.

    After a search by halving or TPE, only its best values are compared, and others were tried.
    """
    if not study.axis or study.search != "grid" or conclusion.answer != Answer.HELPS:
        return ""
    best, arms = _value(conclusion.chosen, study.axis), {_value(arm, study.axis): arm for arm in conclusion.arms}
    larger = sorted(float(value) for value in {*arms, *study.vary[study.axis]} if value > best)
    if not larger:
        command = _command(conclusion, study, context, best, 10 * best)
        return f"the largest value is the best; try larger ones{command}"
    upper = larger[0]
    # An arm whose trials all failed, usually because the loss became infinite, has no summary.
    works = context.missing if upper not in arms else not arms[upper].has_collapsed
    if works or upper <= WIDE_STEP * best:
        return ""
    missing = f"nothing was tried between {best:g} and {upper:g}, where the best value may lie"
    return f"{missing}{_command(conclusion, study, context, best, upper)}"


def _value(arm: ArmSummary, option: str) -> float:
    return float(arm.results[0].values[option])


def _command(conclusion: "Conclusion", study: Study, context: "Context", low: float, high: float) -> str:
    """The command with two more values, which divide the range from ``low`` to ``high`` in equal ratios.

    Empty for options such as a probability, for which larger values may not exist.
    """
    option = study.axis
    if option is None or not option.endswith(UNBOUNDED):
        return ""
    values = [*study.vary[option], *(arm.results[0].values[option] for arm in conclusion.arms)]
    values += [float(f"{low * (high / low) ** share:.0e}") for share in (1 / 3, 2 / 3)]
    command = with_option(context.command, "vary", json.dumps({option: sorted(set(values), key=float)}))
    return f": {command}" if command else ""
