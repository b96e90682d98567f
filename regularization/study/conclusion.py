"""The answer of a study: which arm to use, what may be claimed against the baseline, and one sentence that says so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from regularization.study import statistics
from regularization.study.config import Study
from regularization.study.results import Result, by_arm
from regularization.study.statistics import ALPHA, Comparison

# Clean training accuracy this far below the unregularized arm's, in points: the network no longer fits its data.
UNDERFIT = 0.05


@dataclass(frozen=True)
class ArmSummary:
    """What is known of an arm.

    Attributes:
        name: Of the arm.
        results: Its runs.
        mean: Mean validation accuracy.
        ci_half_width: Half of its 95% t-interval over seeds; NaN with one seed.
        comparison: Its difference from the baseline, with p corrected for the number of arms; None for the baseline.
        effect: ``underfits``, ``hardly acts``, or nothing.
    """

    name: str
    results: list[Result]
    mean: float
    ci_half_width: float
    comparison: Comparison | None
    effect: str

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracy by seed."""
        return [result.accuracy for result in self.results]

    @property
    def unregularized(self) -> bool:
        """Whether it is known to have no regularization."""
        return self.results[0].unregularized

    @property
    def timescale(self) -> float | None:
        """τ in epochs."""
        return self.results[0].timescale

    def average(self, metric: str) -> float:
        """Mean over seeds of a metric in the epoch that counts; NaN where it was not measured."""
        seen = [result.row[metric] for result in self.results if metric in result.row]
        return float(np.mean(seen)) if seen else math.nan


@dataclass(frozen=True)
class Conclusion:
    """What a study says.

    Attributes:
        arms: All arms in their order.
        baseline: The arm compared with, or None.
        chosen: The recommendation.
        indistinguishable: Names of the arms that can't be told from the best.
        seeds_needed: Seeds an arm that would tell the chosen arm from the baseline (or the two best arms apart); None
            when they were told apart, or when no number of seeds up to 1,000 would.
        sentence: The answer in words.
        remarks: What else should be known.
    """

    arms: list[ArmSummary]
    baseline: ArmSummary | None
    chosen: ArmSummary
    indistinguishable: list[str]
    seeds_needed: int | None
    sentence: str
    remarks: list[str]


def draw_conclusion(
    results: Sequence[Result], study: Study, baseline: str | None, failed: Mapping[str, list[str]] | None = None
) -> Conclusion:
    """Draws the conclusions from the runs of the final.

    Args:
        results: Finished runs, of one arm at least.
        study: What was asked.
        baseline: The arm to compare with, or None.
        failed: Why trials failed, by arm: an arm that can't be relied on to train is not recommended.
    """
    failed = failed or {}
    arms = _summaries(by_arm(sorted(results, key=lambda one: _place(one, study))), baseline, study.paired)
    base = next((arm for arm in arms if arm.name == baseline), None)
    whole = [arm for arm in arms if arm.name not in failed] or arms
    best = max(whole, key=lambda arm: arm.mean)
    indistinguishable = _alike(whole, best, ordered=study.axis is not None)
    chosen = _choose(whole, best, indistinguishable, study)
    needed = None if study.paired else _seeds_needed(arms, base, chosen)
    said = _sentence(base, chosen, indistinguishable, needed)
    return Conclusion(
        arms, base, chosen, indistinguishable, needed, said, _remarks(study, arms, indistinguishable, failed)
    )


def _place(result: Result, study: Study) -> list[float]:
    """What arms are ordered by: their values along the axes, or their places in the study's config."""
    if study.vary:
        return [float(result.values[option]) for option in study.vary]
    names = list(study.arms)
    return [float(names.index(result.group) if result.group in names else len(names))]


def _summaries(runs: dict[str, list[Result]], baseline: str | None, paired: bool) -> list[ArmSummary]:
    others = [name for name in runs if name != baseline] if baseline in runs else []
    # So that all the intervals together hold in 95 of 100 studies.
    alpha = ALPHA / max(1, len(others))
    compared = {name: _compare(runs[name], runs[baseline or ""], paired, alpha) for name in others}
    corrected = statistics.holm([one.p for one in compared.values()])
    comparison = {name: replace(one, p=p) for (name, one), p in zip(compared.items(), corrected, strict=True)}
    arms = []
    for name, own in runs.items():
        accuracies = [result.accuracy for result in own]
        mean, half = float(np.mean(accuracies)), statistics.half_width(accuracies)
        arms.append(ArmSummary(name, own, mean, half, comparison.get(name), _effect(own, runs.get(baseline or ""))))
    return arms


def _compare(own: list[Result], others: list[Result], paired: bool, alpha: float) -> Comparison:
    if paired:
        theirs = {result.seed: result.accuracy for result in others}
        pairs = [(result.accuracy, theirs[result.seed]) for result in own if result.seed in theirs]
        if pairs:
            return statistics.paired([one for one, _ in pairs], [other for _, other in pairs], alpha)
    return statistics.welch([one.accuracy for one in own], [one.accuracy for one in others], alpha)


def _effect(own: list[Result], baseline: list[Result] | None) -> str:
    """Which side of the best λ an arm is on, from what it made of its training data and how long it had to act."""
    if not baseline or own is baseline:
        return ""
    clean, free = (
        float(np.mean([one.row.get("clean_accuracy", math.nan) for one in side])) for side in (own, baseline)
    )
    if clean < free - UNDERFIT:
        return "underfits"
    decays = [one.decay for one in own]
    return "hardly acts" if 0 < float(np.mean(decays)) < 1 and abs(clean - free) < UNDERFIT / 5 else ""


def _alike(arms: list[ArmSummary], best: ArmSummary, ordered: bool) -> list[str]:
    """On an axis, the arms within one standard error of the best; else those that no corrected test tells from it."""
    if ordered:
        places = statistics.within_one_standard_error([arm.accuracies for arm in arms])
        return [arms[place].name for place in places]
    others = [arm for arm in arms if arm is not best]
    p_values = statistics.holm([statistics.welch(best.accuracies, arm.accuracies).p for arm in others])
    near = {arm.name for arm, p in zip(others, p_values, strict=True) if not p < ALPHA}
    return [arm.name for arm in arms if arm is best or arm.name in near]


def _choose(arms: list[ArmSummary], best: ArmSummary, indistinguishable: list[str], study: Study) -> ArmSummary:
    """The middle, by default: of neighbours that can't be told apart, the ends are the likeliest to be chance."""
    if study.axis is None or study.choose == "best":
        return best
    candidates = [arm for arm in arms if arm.name in indistinguishable]
    if study.choose == "strongest":
        # A longer timescale is a weaker λ.
        return candidates[0 if study.axis.endswith("timescale_epochs") else -1]
    middle = (len(candidates) - 1) / 2
    pair = (candidates[math.floor(middle)], candidates[math.ceil(middle)])
    return max(pair, key=lambda arm: arm.mean)


def _seeds_needed(arms: list[ArmSummary], base: ArmSummary | None, chosen: ArmSummary) -> int | None:
    """For the difference as it was measured, and as many comparisons; from the baseline, or between the two best."""
    pair = (chosen, base) if base is not None and base is not chosen else _leaders(arms)
    if pair is None or (pair[0].comparison is not None and pair[1] is base and pair[0].comparison.p < ALPHA):
        return None
    deviation = statistics.pooled_deviation([arm.accuracies for arm in pair])
    comparisons = max(1, sum(arm.comparison is not None for arm in arms))
    return statistics.seeds_needed(pair[0].mean - pair[1].mean, deviation, ALPHA / comparisons)


def _leaders(arms: list[ArmSummary]) -> tuple[ArmSummary, ArmSummary] | None:
    ranked = sorted(arms, key=lambda arm: -arm.mean)
    return (ranked[0], ranked[1]) if len(ranked) > 1 else None


def _sentence(base: ArmSummary | None, chosen: ArmSummary, indistinguishable: list[str], needed: int | None) -> str:
    reached = f"{percent(chosen.mean)} validation accuracy"
    if base is None:
        others = [name for name in indistinguishable if name != chosen.name]
        apart = f"; can't be told from it: {', '.join(others)}" if others else ""
        return f"{_named(chosen)} is recommended: {reached}{apart}."
    if chosen is base:
        said = "Regularization does not help here: " if base.unregularized else ""
        return f"{said}{_named(chosen)} reaches {reached}, and no other arm was better beyond chance."
    assert chosen.comparison is not None
    if math.isnan(chosen.comparison.p):
        why = "with one seed an arm" if min(len(chosen.results), len(base.results)) < 2 else "without any spread"
        return f"{_named(chosen)} reaches {reached}, {base.name} {percent(base.mean)}; {why} nothing can be claimed."
    return _compared(base, chosen, chosen.comparison, reached, needed)


def _compared(base: ArmSummary, chosen: ArmSummary, comparison: Comparison, reached: str, needed: int | None) -> str:
    """What may be claimed of the chosen arm; of regularization itself only where the baseline has none."""
    sure = f"95% interval {points(comparison.low)} to {points(comparison.high)}, p = {comparison.p:.2g}, corrected"
    if comparison.p < ALPHA:
        gain = f"{points(comparison.difference)} points against {base.name}"
        better = "helps" if comparison.difference > 0 else "hurts"
        said = f"Regularization {better}: " if base.unregularized and not chosen.unregularized else ""
        return f"{said}{_named(chosen)} reaches {reached}, {gain} ({sure})."
    more = f" About {needed} seeds an arm would show a difference of this size." if needed else ""
    gain = f"{percent(base.mean)} for {base.name} (difference {points(comparison.difference)} points, {sure})"
    return f"No effect could be shown: {_named(chosen)} reaches {reached} against {gain}.{more}"


def _named(arm: ArmSummary) -> str:
    tau = arm.timescale
    return f"{arm.name} (τ = {tau:.3g} epochs)" if tau else arm.name


def _remarks(
    study: Study, arms: list[ArmSummary], indistinguishable: list[str], failed: Mapping[str, list[str]]
) -> list[str]:
    remarks = [f"not recommended, {name} failed: {'; '.join(reasons)}" for name, reasons in failed.items()]
    for effect in ("hardly acts", "underfits"):
        names = [arm.name for arm in arms if arm.effect == effect]
        if names:
            remarks.append(f"{effect}: {', '.join(names)}")
    if len(indistinguishable) > 1:
        how = "within one standard error of the best" if study.axis else "can't be told from the best"
        remarks.append(f"{how}: {', '.join(indistinguishable)}")
    if study.axis and (
        arms[-1].name in indistinguishable or (arms[0].name in indistinguishable and len(indistinguishable) < len(arms))
    ):
        end = "largest" if arms[-1].name in indistinguishable else "smallest"
        if not (end == "smallest" and arms[0].results[0].values.get(study.axis) == 0):
            remarks.append(f"the {end} value is among the best: widen the range")
    correlations = {
        arm.name: arm.comparison.correlation
        for arm in arms
        if arm.comparison and arm.comparison.correlation is not None
    }
    if correlations:
        said = ", ".join(f"{name} {value:+.2f}" for name, value in correlations.items())
        remarks.append(f"compared seed by seed; correlation with the baseline: {said}")
    return remarks


def percent(value: float) -> str:
    """A share in percent."""
    return f"{value:.2%}"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.2f}"
