"""Summaries of arms: accuracy, comparison with the baseline, verdict, and what else the arm changed."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from regularization.models.objective import ACCURACY, Objective
from regularization.study.analysis import statistics
from regularization.study.analysis.comparison import Comparison, Sample, compare
from regularization.study.analysis.verdicts import Verdict, judge_arm
from regularization.study.config import Study
from regularization.study.results import Result

# Metrics that are compared like the objective, each with simultaneous intervals of its own.
EFFECTS = ("val_accuracy", "val_loss", "val_calibration_error", "clean_accuracy", "gap_accuracy", "weight_norm")


@dataclass(frozen=True)
class ArmSummary:
    """The results of one arm.

    Attributes:
        name: Name of the arm.
        results: Its finished runs, one per seed.
        mean: Mean of the objective, by default the validation accuracy.
        low, high: Ends of the mean's 95% interval over seeds; NaN for one seed.
        comparison: Comparison with the baseline; None for the baseline itself, or without one.
        verdict: What the comparison shows; None without one.
        effects: By metric, the comparison with the baseline.
        objective: The metric by which arms are compared.
    """

    name: str
    results: list[Result]
    mean: float
    low: float
    high: float
    comparison: Comparison | None
    verdict: Verdict | None
    effects: dict[str, Comparison] = field(default_factory=dict)
    objective: Objective = ACCURACY

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracy of each seed."""
        return [result.accuracy for result in self.results]

    @property
    def values(self) -> list[float]:
        """The objective of each seed."""
        return [self.value_of(result) for result in self.results]

    def value_of(self, result: Result) -> float:
        """The objective of one run."""
        return result.metric(self.objective.metric)

    @property
    def score(self) -> float:
        """The mean of the objective, with a sign so that higher is better."""
        return self.objective.sign * self.mean

    @property
    def difference(self) -> float:
        """Gain over the baseline, positive if the objective improves; 0 for the baseline."""
        return 0.0 if self.comparison is None else self.comparison.difference

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the simultaneous 95% interval of the gain; 0 and 0 for the baseline."""
        return (0.0, 0.0) if self.comparison is None else (self.comparison.low, self.comparison.high)

    @property
    def has_collapsed(self) -> bool:
        """Whether the arm is far below the baseline, for instance by more than 10 points of accuracy."""
        return self.difference < -self.objective.collapse

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
        values = [value for result in self.results if math.isfinite(value := result.metric(metric))]
        return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True)
class CommonMeans:
    """The means of a value in an arm and in the baseline, and the number of common seeds; 0 if all seeds are used."""

    arm: float
    baseline: float
    seeds: int


def common_means(
    arm: ArmSummary, baseline: ArmSummary, value: Callable[[Result], float | None], paired: bool
) -> CommonMeans:
    """The means over the seeds in which both arms have the value, as the gain is estimated.

    They are over all seeds if ``paired`` is False or the arms share no seed; NaN if nothing was measured.
    """
    own, other = (
        {result.seed: it for result in one.results if (it := value(result)) is not None and math.isfinite(it)}
        for one in (arm, baseline)
    )
    common = own.keys() & other.keys() if paired else set()
    first, second = (
        float(np.mean([it for seed, it in values.items() if seed in common or not common])) if values else math.nan
        for values in (own, other)
    )
    return CommonMeans(first, second, 0 if common == own.keys() == other.keys() else len(common))


def summarize_arms(
    results: dict[str, list[Result]], study: Study, baseline: str | None, alpha: float
) -> list[ArmSummary]:
    """Summarizes each arm and compares it with the baseline by every metric.

    Args:
        results: The runs of each arm, in the order in which arms are shown.
        study: The study's config.
        baseline: Name of the arm to compare with, or None.
        alpha: The simultaneous intervals have the level 1 − ``alpha``.
    """
    objective, own = Objective.parse(study.objective), list(results.values())
    gains: dict[int, Comparison] = {}
    effects: dict[str, dict[int, Comparison]] = {}
    if baseline in results:
        reference = list(results).index(baseline)
        gains = compare_objective(sample_of(own, objective), reference, alpha, study)
        others = [metric for metric in EFFECTS if metric != objective.metric]
        effects = {metric: _compare(own, reference, metric, study, alpha) for metric in others}
    arms = []
    for index, (name, runs) in enumerate(results.items()):
        values = [run.metric(objective.metric) for run in runs]
        judged = (study.resolution / 100, objective.collapse)
        verdict = judge_arm(gains[index], *judged) if index in gains else None
        by_metric = {metric: by_arm[index] for metric, by_arm in effects.items() if index in by_arm}
        mean, interval = float(np.mean(values)), statistics.mean_interval(values, objective.is_fraction)
        arms.append(ArmSummary(name, runs, mean, *interval, gains.get(index), verdict, by_metric, objective))
    return arms


def compare_objective(sample: Sample, baseline: int, alpha: float, study: Study) -> dict[int, Comparison]:
    """Compares each arm with the baseline by the objective; see ``compare``."""
    return compare(sample, baseline, alpha, study.paired)


def sample_of(results: Iterable[Sequence[Result]], objective: Objective) -> Sample:
    """The objective in all trials that have it, with a sign so that higher is better; arms are numbered in order."""
    sample = _sample_of(results, objective.metric)
    return replace(sample, values=objective.sign * sample.values, collapse=objective.collapse)


def _sample_of(results: Iterable[Sequence[Result]], metric: str) -> Sample:
    rows = [
        (value, arm, result.seed)
        for arm, own in enumerate(results)
        for result in own
        if math.isfinite(value := result.metric(metric))
    ]
    values, arms, seeds = zip(*rows, strict=True) if rows else ((), (), ())
    return Sample(np.array(values, dtype=float), np.array(arms, dtype=int), np.array(seeds, dtype=int), math.inf)


def _compare(
    results: Sequence[list[Result]], baseline: int, metric: str, study: Study, alpha: float
) -> dict[int, Comparison]:
    """The comparison of each arm that has the metric; empty if the baseline does not have it."""
    sample = _sample_of(results, metric)
    if baseline not in sample.arms:
        return {}
    return compare(sample, baseline, alpha, study.paired)
