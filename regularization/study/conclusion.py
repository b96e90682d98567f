"""The conclusion of a study: the recommended arm, the comparison with the baseline, and a sentence that states both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from regularization.study import statistics
from regularization.study.config import Study
from regularization.study.results import Result, by_arm
from regularization.study.statistics import ALPHA, Comparison

# An arm underfits if its clean training accuracy is lower than the baseline's by more than this difference.
UNDERFIT_MARGIN = 0.05
# An arm has little effect if the two accuracies differ by less than this, and λ had less than one timescale τ to act.
LITTLE_EFFECT_MARGIN = 0.01


@dataclass(frozen=True)
class ArmSummary:
    """The results of one arm.

    Attributes:
        name: Name of the arm.
        results: Its finished runs, one per seed.
        mean: Mean validation accuracy.
        ci_half_width: Half of the width of the mean's 95% t-interval over seeds; NaN for one seed.
        comparison: Comparison with the baseline, corrected for the number of arms; None for the baseline itself.
        effect: ``underfits``, ``little effect``, or an empty string.
    """

    name: str
    results: list[Result]
    mean: float
    ci_half_width: float
    comparison: Comparison | None
    effect: str

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracy of each seed."""
        return [result.accuracy for result in self.results]

    @property
    def unregularized(self) -> bool:
        """Whether the arm is known to have no regularization."""
        return self.results[0].unregularized

    @property
    def timescale(self) -> float | None:
        """The timescale τ in epochs; None without weight decay."""
        return self.results[0].timescale

    def average(self, metric: str) -> float:
        """Mean of a metric over seeds, each in its scored epoch; NaN if the metric was not measured."""
        values = [result.row[metric] for result in self.results if metric in result.row]
        return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True)
class Conclusion:
    """The conclusion of a study.

    Attributes:
        arms: Summaries of all arms, in the order of their values or of the study's config.
        baseline: The arm that the others are compared with, or None.
        chosen: The recommended arm.
        indistinguishable: Names of the arms that are not distinguishable from the best one.
        seeds_needed: Number of seeds per arm needed to detect the measured difference of the chosen arm from the
            baseline (or of the two best arms); None if the difference is significant or 1,000 seeds are not enough.
        sentence: The conclusion in words.
        remarks: Further remarks, one sentence each.
    """

    arms: list[ArmSummary]
    baseline: ArmSummary | None
    chosen: ArmSummary
    indistinguishable: list[str]
    seeds_needed: int | None
    sentence: str
    remarks: list[str]


def draw_conclusion(
    results: Sequence[Result], study: Study, baseline: str | None, failures: Mapping[str, list[str]] | None = None
) -> Conclusion:
    """Draws the conclusion from the runs of the final stage.

    Args:
        results: Finished runs of at least one arm.
        study: The study's config.
        baseline: Name of the arm to compare with, or None.
        failures: By arm, the reasons why trials failed. An arm with a failed trial is not recommended.
    """
    failures = failures or {}
    arms = _summarize_arms(by_arm(sorted(results, key=lambda result: _sort_key(result, study))), baseline, study.paired)
    baseline_arm = next((arm for arm in arms if arm.name == baseline), None)
    candidates = [arm for arm in arms if arm.name not in failures] or arms
    best = max(candidates, key=lambda arm: arm.mean)
    indistinguishable = _indistinguishable(candidates, best, ordered=study.axis is not None)
    chosen = _recommend(candidates, best, indistinguishable, study)
    seeds_needed = None if study.paired else _seeds_needed(arms, baseline_arm, chosen)
    sentence = _sentence(baseline_arm, chosen, indistinguishable, seeds_needed)
    remarks = _remarks(study, arms, indistinguishable, failures)
    return Conclusion(arms, baseline_arm, chosen, indistinguishable, seeds_needed, sentence, remarks)


def _sort_key(result: Result, study: Study) -> list[float]:
    """The values along the axes, or the index of the arm in the study's config."""
    if study.vary:
        return [float(result.values[option]) for option in study.vary]
    names = list(study.arms)
    return [float(names.index(result.group) if result.group in names else len(names))]


def _summarize_arms(results_by_arm: dict[str, list[Result]], baseline: str | None, paired: bool) -> list[ArmSummary]:
    baseline_results = results_by_arm.get(baseline or "")
    comparisons = {}
    if baseline_results is not None:
        others = {name: results for name, results in results_by_arm.items() if name != baseline}
        # Bonferroni's correction: all intervals together cover the true differences in 95% of studies.
        alpha = ALPHA / max(1, len(others))
        comparisons = {name: _compare(results, baseline_results, paired, alpha) for name, results in others.items()}
    p_values = statistics.holm([comparison.p for comparison in comparisons.values()])
    corrected = {
        name: replace(comparison, p=p) for (name, comparison), p in zip(comparisons.items(), p_values, strict=True)
    }
    arms = []
    for name, results in results_by_arm.items():
        accuracies = [result.accuracy for result in results]
        mean, half_width = float(np.mean(accuracies)), statistics.ci_half_width(accuracies)
        effect = _classify_effect(results, baseline_results)
        arms.append(ArmSummary(name, results, mean, half_width, corrected.get(name), effect))
    return arms


def _compare(results: list[Result], baseline_results: list[Result], paired: bool, alpha: float) -> Comparison:
    if paired:
        by_seed = {result.seed: result.accuracy for result in baseline_results}
        common = [result for result in results if result.seed in by_seed]
        if common:
            baseline_accuracies = [by_seed[result.seed] for result in common]
            return statistics.paired([result.accuracy for result in common], baseline_accuracies, alpha)
    baseline_accuracies = [result.accuracy for result in baseline_results]
    return statistics.welch([result.accuracy for result in results], baseline_accuracies, alpha)


def _classify_effect(results: list[Result], baseline_results: list[Result] | None) -> str:
    """``underfits`` if λ is clearly too strong, ``little effect`` if it is clearly too weak, else an empty string."""
    if not baseline_results or results is baseline_results:
        return ""
    accuracy, baseline_accuracy = (
        float(np.mean([result.row.get("clean_accuracy", math.nan) for result in side]))
        for side in (results, baseline_results)
    )
    if accuracy < baseline_accuracy - UNDERFIT_MARGIN:
        return "underfits"
    decay = float(np.mean([result.decay for result in results]))
    return "little effect" if 0 < decay < 1 and abs(accuracy - baseline_accuracy) < LITTLE_EFFECT_MARGIN else ""


def _indistinguishable(arms: list[ArmSummary], best: ArmSummary, ordered: bool) -> list[str]:
    """On an axis, the arms within one standard error of the best; else those not significantly different from it."""
    if ordered:
        indices = statistics.within_one_standard_error([arm.accuracies for arm in arms])
        return [arms[index].name for index in indices]
    others = [arm for arm in arms if arm is not best]
    p_values = statistics.holm([statistics.welch(best.accuracies, arm.accuracies).p for arm in others])
    # A p that is NaN shows no difference either.
    similar = {arm.name for arm, p in zip(others, p_values, strict=True) if not p < ALPHA}
    return [arm.name for arm in arms if arm is best or arm.name in similar]


def _recommend(arms: list[ArmSummary], best: ArmSummary, indistinguishable: list[str], study: Study) -> ArmSummary:
    """By default the middle of the indistinguishable arms: one at either end is more likely to be there by chance."""
    if study.axis is None or study.choose == "best":
        return best
    candidates = [arm for arm in arms if arm.name in indistinguishable]
    if study.choose == "strongest":
        # A shorter timescale means a stronger λ.
        return candidates[0 if study.axis.endswith("timescale_epochs") else -1]
    middle = (len(candidates) - 1) / 2
    central = (candidates[math.floor(middle)], candidates[math.ceil(middle)])
    return max(central, key=lambda arm: arm.mean)


def _seeds_needed(arms: list[ArmSummary], baseline: ArmSummary | None, chosen: ArmSummary) -> int | None:
    """Seeds per arm to detect the measured difference, with as many comparisons; see ``Conclusion.seeds_needed``."""
    best_two = sorted(arms, key=lambda arm: -arm.mean)[:2]
    pair = best_two if baseline is None or baseline is chosen else [chosen, baseline]
    if len(pair) < 2:
        return None
    first, second = pair
    if second is baseline and first.comparison is not None and first.comparison.p < ALPHA:
        return None
    std = statistics.pooled_std([first.accuracies, second.accuracies])
    comparisons = max(1, sum(arm.comparison is not None for arm in arms))
    return statistics.seeds_needed(first.mean - second.mean, std, ALPHA / comparisons)


def _sentence(
    baseline: ArmSummary | None, chosen: ArmSummary, indistinguishable: list[str], seeds_needed: int | None
) -> str:
    name, accuracy = _name_with_timescale(chosen), f"{format_percent(chosen.mean)} validation accuracy"
    if baseline is None:
        others = [other for other in indistinguishable if other != chosen.name]
        suffix = f"; not distinguishable from it: {', '.join(others)}" if others else ""
        return f"{name} is recommended: {accuracy}{suffix}."
    if chosen is baseline:
        prefix = "Regularization does not help here: " if baseline.unregularized else ""
        return f"{prefix}{name} reaches {accuracy}, and no other arm is significantly better."
    assert chosen.comparison is not None
    if math.isnan(chosen.comparison.p):
        single = min(len(chosen.results), len(baseline.results)) < 2
        reason = "with one seed per arm" if single else "without variation between seeds"
        reference = f"{baseline.name} {format_percent(baseline.mean)}"
        return f"{name} reaches {accuracy} and {reference}; {reason}, no conclusion can be drawn."
    return _comparison_sentence(baseline, chosen, chosen.comparison, seeds_needed)


def _comparison_sentence(
    baseline: ArmSummary, chosen: ArmSummary, comparison: Comparison, seeds_needed: int | None
) -> str:
    """The measured difference; it is attributed to regularization only if the baseline has none and ``chosen`` does."""
    reached = f"{_name_with_timescale(chosen)} reaches {format_percent(chosen.mean)} validation accuracy"
    difference = f"{format_points(comparison.difference)} points"
    interval = f"95% interval {format_points(comparison.low)} to {format_points(comparison.high)}"
    statement = f"{interval}, p = {comparison.p:.2g}, corrected"
    if comparison.p < ALPHA:
        effect = "helps" if comparison.difference > 0 else "hurts"
        prefix = f"Regularization {effect}: " if baseline.unregularized and not chosen.unregularized else ""
        return f"{prefix}{reached}, {difference} compared with {baseline.name} ({statement})."
    reference = f"{format_percent(baseline.mean)} for {baseline.name} (difference {difference}, {statement})"
    sentence = f"No effect could be shown: {reached} compared with {reference}."
    if seeds_needed is None:
        return sentence
    return f"{sentence} About {seeds_needed} seeds per arm would be needed to detect a difference of this size."


def _name_with_timescale(arm: ArmSummary) -> str:
    return f"{arm.name} (τ = {arm.timescale:.3g} epochs)" if arm.timescale else arm.name


def _remarks(
    study: Study, arms: list[ArmSummary], indistinguishable: list[str], failures: Mapping[str, list[str]]
) -> list[str]:
    remarks = [f"{name} is not recommended; failed trials: {'; '.join(reasons)}" for name, reasons in failures.items()]
    for effect in ("little effect", "underfits"):
        names = [arm.name for arm in arms if arm.effect == effect]
        if names:
            remarks.append(f"{effect}: {', '.join(names)}")
    if len(indistinguishable) > 1:
        criterion = (
            "within one standard error of the best" if study.axis else "not significantly different from the best"
        )
        remarks.append(f"{criterion}: {', '.join(indistinguishable)}")
    if study.axis and (end := _best_end(study.axis, arms, indistinguishable)):
        remarks.append(f"the {end} value is among the best: widen the range")
    correlations = [
        f"{arm.name} {arm.comparison.correlation:+.2f}"
        for arm in arms
        if arm.comparison is not None and arm.comparison.correlation is not None
    ]
    if correlations:
        remarks.append(f"compared in pairs with equal seeds; correlation with the baseline: {', '.join(correlations)}")
    return remarks


def _best_end(option: str, arms: list[ArmSummary], indistinguishable: list[str]) -> str:
    """Which end of the range of values is among the best, if there may be better values beyond it."""
    if arms[-1].name in indistinguishable:
        return "largest"
    extendable = arms[0].results[0].values.get(option) != 0
    return "smallest" if arms[0].name in indistinguishable and extendable else ""


def format_percent(value: float) -> str:
    """Formats a fraction in percent."""
    return f"{value:.2%}"


def format_points(value: float) -> str:
    """Formats a difference of fractions in percentage points, with its sign."""
    return f"{100 * value:+.2f}"
