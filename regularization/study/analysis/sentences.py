"""The sentence that answers the question of a study."""

import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from regularization.callbacks.history import format_duration
from regularization.models.objective import ACCURACY, Objective
from regularization.study.analysis.arms import ArmSummary, common_means
from regularization.study.analysis.changes import worsened
from regularization.study.analysis.comparison import Comparison
from regularization.study.analysis.regularizers import kind_of
from regularization.study.analysis.verdicts import Answer, Verdict
from regularization.study.config import Study

if TYPE_CHECKING:
    from regularization.study.analysis.conclusion import Conclusion, Context


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
        return f"{highest}. Name the arm to compare with by --baseline."
    state = "all of its trials failed" if baseline in context.without_result else "none of its trials has finished"
    return f"Nothing can be compared with the baseline {baseline}: {state}. {highest}."


def _helps(conclusion: "Conclusion", baseline: ArmSummary, study: Study) -> str:
    chosen = conclusion.chosen
    assert chosen.comparison is not None
    # The difference is due to regularization only if the baseline has none and the arm does.
    attributed = baseline.unregularized and not chosen.unregularized
    opening = f"{kind_of(chosen, study)} helps: use {_name(chosen)}" if attributed else f"{_name(chosen)} helps"
    opening += ", with the learning rate chosen for each arm" if study.learning_rates else ""
    objective = chosen.objective
    gain = objective.with_unit(objective.format_difference(chosen.difference).removeprefix("+"))
    if objective.mode == "max":
        gains = f"It gains {gain} of {objective.name} over {baseline.name}"
    else:
        gains = f"It lowers {objective.with_article} by {gain} compared with {baseline.name}"
    worse = worsened(chosen, baseline)
    cost = f" But {' and '.join(f'the {name}' for name in worse)} {'get' if len(worse) > 1 else 'gets'} worse."
    return f"{opening}. {gains} ({_interval(chosen)}).{cost if worse else ''}"


def _none_helps(conclusion: "Conclusion", baseline: ArmSummary, study: Study) -> str:
    compared = [arm for arm in conclusion.candidates if arm.comparison is not None]
    highest = max(compared, key=lambda arm: arm.interval[1])
    what = "No λ that was tried" if study.vary else "No arm"
    if len(conclusion.candidates) < len(conclusion.arms):
        what = f"{what.removesuffix(' that was tried')} without failed trials"
    objective = baseline.objective
    end = objective.with_unit(objective.format_difference(highest.interval[1]))
    bound = f"the intervals end at {end} or lower ({highest.name})"
    least = objective.format_resolution(study.resolution) + ("" if objective == ACCURACY else f" in {objective.name}")
    sentence = f"{what} helps by more than {least} compared with {baseline.name}: {bound}."
    return f"{sentence} {_harm(conclusion.arms, study)}".rstrip()


def _harm(arms: Sequence[ArmSummary], study: Study) -> str:
    """The λ from which regularization hurts, or the arms that hurt, as a sentence."""
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
    means = common_means(chosen, baseline, chosen.value_of, study.paired)
    own, reference = objective.format(means.arm), objective.format(means.baseline)
    reached = f"{_name(chosen)} reaches {own} {objective.name} and {baseline.name} {reference}"
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
    # A limit on the trials would end the study again.
    command = without_option(context.command, "trials")
    if study.until == "seeds":
        command = with_option(command, "seeds", str(seeds))
    elif seeds > study.max_seeds:
        # If max_seeds is large enough, a limit on trials or hours has ended the study.
        command = with_option(command, "max_seeds", str(seeds))
    cost = f"{trials} more trials, about {format_duration(seconds)} on this machine"
    return f"About {seeds} seeds per arm would decide ({cost})" + (f": {command}" if command else "")


def with_option(command: str, name: str, value: str) -> str:
    """The command with the option ``--name value`` in place of the one that it has; an empty command stays empty.

    >>> with_option("sweep --config a.yaml --seeds=3", "seeds", "9")
    'sweep --config a.yaml --seeds 9'
    """
    kept = without_option(command, name)
    return f"{kept} {shlex.join([f'--{name}', value])}" if kept else ""


def without_option(command: str, name: str) -> str:
    """The command without the option ``--name`` and its value."""
    words, kept, options = iter(shlex.split(command)), [], (f"--{name}", f"--{name.replace('_', '-')}")
    for word in words:
        option, is_assigned, _ = word.partition("=")
        # An option of a dict may also be given one key at a time.
        if option not in options and not option.startswith(tuple(f"{it}." for it in options)):
            kept.append(word)
        elif not is_assigned:
            next(words, None)
    return shlex.join(kept)


def _name(arm: ArmSummary) -> str:
    return f"{arm.name} (τ = {arm.timescale:.3g} epochs)" if arm.timescale else arm.name


def _interval(arm: ArmSummary) -> str:
    assert arm.comparison is not None
    return f"95% interval {format_interval(arm.comparison, arm.objective)}, adjusted {format_p(arm.comparison.p)}"


def format_interval(comparison: Comparison, objective: Objective = ACCURACY) -> str:
    """Formats both ends of an interval, in percentage points or in the unit of the objective."""
    return f"{objective.format_difference(comparison.low)} to {objective.format_difference(comparison.high)}"


def format_p(p: float) -> str:
    """Formats a p value; very small ones depend on the tails of the noise, and are given as a bound."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def format_percent(value: float) -> str:
    """Formats a fraction in percent."""
    return f"{value:.2%}"
