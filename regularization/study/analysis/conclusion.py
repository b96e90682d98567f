"""The conclusion of a study: every arm against the baseline, the answer, and a sentence that states it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from regularization.study.analysis.arms import ArmSummary, sample_of, summarize_arms
from regularization.study.analysis.comparison import ALPHA
from regularization.study.analysis.curve import Curve, fit_curve
from regularization.study.analysis.gain import held_out_gain, seeds_needed
from regularization.study.analysis.remarks import remarks_on
from regularization.study.analysis.sentences import answer
from regularization.study.analysis.verdicts import OPEN, Answer, Verdict, judge_study
from regularization.study.config import Study
from regularization.study.results import Result, by_arm

# The value to which the resolution is scaled for the curve if the objective is not a fraction.
CURVE_RESOLUTION = 0.005


@dataclass(frozen=True)
class Context:
    """What a conclusion needs to know besides the results.

    Attributes:
        baseline: Name of the arm to compare with, or None.
        failures: By arm, the reasons why trials of the comparison failed. An arm with a failed trial is not
            recommended, unless every arm has one.
        without_result: Arms whose trials all failed, with the reason.
        alpha: The level of the simultaneous intervals is 1 − ``alpha``.
        later_alpha: Returns α at a later look with this many seeds per arm; by default ``alpha``.
        missing: Number of trials that are planned but not finished.
        searching: Whether the search has not yet chosen the arms that are compared.
        workers: Trials that run at a time.
        command: The command of the study.
    """

    baseline: str | None = None
    failures: Mapping[str, list[str]] = field(default_factory=dict)
    without_result: Mapping[str, str] = field(default_factory=dict)
    alpha: float = ALPHA
    later_alpha: Callable[[int], float] | None = None
    missing: int = 0
    searching: bool = False
    workers: int = 1
    command: str = ""


@dataclass(frozen=True)
class Conclusion:
    """The conclusion of a study.

    Attributes:
        arms: Summaries of all arms, in the order of their values; without values, the baseline and then best to worst.
        candidates: The arms on which the answer depends: those without failed trials, or all if each has one.
        baseline: The arm that the others are compared with, or None.
        chosen: The recommended arm: of the arms that help, the one whose interval has the highest lower end; the
            baseline if none helps; while undecided, the arm that looks best.
        answer: Whether an arm helps, none helps by more than the resolution, or neither is known; None without
            a baseline.
        gain: The cross-validated gain of the chosen arm; NaN if it cannot be computed, or if another arm has a
            higher gain with a wider interval.
        seeds_needed: While undecided, the number of seeds per arm that would decide with a probability of 80%;
            None if 1,000 are not enough.
        curve: The objective as a smooth function of λ, or None.
        sentence: The conclusion in words.
        remarks: Further remarks, one sentence each.
    """

    arms: list[ArmSummary]
    candidates: list[ArmSummary]
    baseline: ArmSummary | None
    chosen: ArmSummary
    answer: Answer | None
    gain: float
    seeds_needed: int | None
    curve: Curve | None
    sentence: str = ""
    remarks: list[str] = field(default_factory=list)


def draw_conclusion(results: Sequence[Result], study: Study, context: Context) -> Conclusion:
    """Draws the conclusion from the runs of the final stage.

    Args:
        results: Finished runs of at least one arm.
        study: The study's config.
        context: The baseline, failed and missing trials, and the level of the intervals.
    """
    ordered = by_arm(sorted(results, key=lambda result: _sort_key(result, study)))
    arms = summarize_arms(ordered, study, context.baseline, context.alpha)
    if not study.vary:
        arms.sort(key=lambda arm: (arm.name != context.baseline, -arm.score))
    baseline = next((arm for arm in arms if arm.name == context.baseline), None)
    candidates = [arm for arm in arms if arm.name not in context.failures] or arms
    judged = _answer(candidates, study) if baseline else None
    chosen = _choose(candidates, baseline, judged)
    gain = _held_out_gain(candidates, chosen, baseline, study) if baseline else math.nan
    needed = _seeds_needed(candidates, baseline, study, context) if judged == Answer.UNDECIDED else None
    conclusion = Conclusion(arms, candidates, baseline, chosen, judged, gain, needed, _curve(arms, study))
    sentence, remarks = answer(conclusion, study, context), remarks_on(conclusion, study, context)
    return replace(conclusion, sentence=sentence, remarks=remarks)


def _sort_key(result: Result, study: Study) -> list[float]:
    """Sort key: the values along the axes, or the arm's index in the study's config, which orders equal arms."""
    if study.vary:
        return [float(result.values[option]) for option in study.vary]
    names = list(study.arms)
    return [float(names.index(result.group) if result.group in names else len(names))]


def _answer(arms: list[ArmSummary], study: Study) -> Answer:
    comparisons = [arm.comparison for arm in arms if arm.comparison is not None]
    return judge_study(comparisons, study.resolution / 100)


def _choose(arms: list[ArmSummary], baseline: ArmSummary | None, answer: Answer | None) -> ArmSummary:
    """The helping arm with the highest lower end; the baseline if none helps; else the one that looks best."""
    if baseline is None or answer is None:
        return max(arms, key=lambda arm: arm.score)
    if answer == Answer.NONE_HELPS:
        return baseline
    compared = [arm for arm in arms if arm.comparison is not None]
    if answer == Answer.HELPS:
        return max((arm for arm in compared if arm.verdict == Verdict.HELPS), key=lambda arm: arm.interval[0])
    undecided = [arm for arm in compared if arm.verdict in OPEN]
    return max(undecided, key=lambda arm: arm.difference, default=baseline)


def _held_out_gain(candidates: list[ArmSummary], chosen: ArmSummary, baseline: ArmSummary, study: Study) -> float:
    """The gain on held-out seeds, where only arms that may be recommended are chosen."""
    if chosen is not baseline and chosen.difference < max(arm.difference for arm in candidates if arm.comparison):
        return math.nan
    sample = sample_of((arm.results for arm in _with_baseline(candidates, baseline)), baseline.objective)
    return held_out_gain(sample, baseline=0, stopped=study.until == "decided")


def _with_baseline(candidates: list[ArmSummary], baseline: ArmSummary) -> list[ArmSummary]:
    """The baseline and then the other candidates; a baseline with failed trials is none of them."""
    return [baseline, *(arm for arm in candidates if arm is not baseline)]


def _seeds_needed(
    candidates: list[ArmSummary], baseline: ArmSummary | None, study: Study, context: Context
) -> int | None:
    """Seeds per arm that would show the gain of the arm that looks best, or that it is below the resolution.

    The number is larger than that of any arm, because the existing seeds have not decided. It is computed for the level
    of the look at which these seeds would be judged.
    """
    undecided = [arm for arm in candidates if arm.verdict in OPEN]
    if baseline is None or not undecided:
        return None
    arms = _with_baseline(candidates, baseline)
    best = max(undecided, key=lambda arm: arm.difference)
    assert best.comparison is not None
    # The noise that the arm's interval is computed from, as a standard deviation within seeds.
    std = best.comparison.standard_error / math.sqrt(1 / len(best.results) + 1 / len(baseline.results))
    most, resolution = max(len(arm.results) for arm in arms), study.resolution / 100
    difference = max(best.difference, resolution - best.difference)
    alpha = context.later_alpha or (lambda seeds: context.alpha)
    return seeds_needed(difference, std, len(arms), alpha, at_least=most + 1)


def _curve(arms: list[ArmSummary], study: Study) -> Curve | None:
    """The smooth curve over one or two varied options; None for arms."""
    if not study.vary:
        return None
    trials = [result for arm in arms for result in arm.results]
    values = np.array([[float(result.values[option]) for option in study.vary] for result in trials])
    seeds = np.array([result.seed for result in trials])
    objective = arms[0].objective
    # The curve is designed for accuracies. A loss has another scale, and is measured in multiples of the resolution.
    unit = objective.sign * (1.0 if objective.is_fraction else study.resolution / 100 / CURVE_RESOLUTION)
    scores = np.array([result.metric(objective.metric) for result in trials]) / unit
    curve = fit_curve(values.squeeze(axis=1) if len(study.vary) == 1 else values, seeds, scores)
    return None if curve is None else curve.scaled(unit)
