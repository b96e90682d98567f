"""What an arm changed besides the objective: metrics that differ significantly and notably from the baseline's."""

from dataclasses import dataclass

from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.comparison import ALPHA
from regularization.study.analysis.verdicts import Verdict

# The smallest ratio of two values for which a change is named, and the smallest difference of two accuracies.
NOTABLE_RATIO = 1.2
NOTABLE_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Metric:
    """A metric in words, the format of its values, and whether higher is better; None if neither is better."""

    name: str
    spec: str
    higher_is_better: bool | None


METRICS = {
    "val_accuracy": Metric("validation accuracy", ".2%", True),
    "val_loss": Metric("validation loss", ".3g", False),
    "val_calibration_error": Metric("calibration error", ".2g", False),
    "weight_norm": Metric("norm of the weights", ".3g", None),
}


@dataclass(frozen=True)
class Change:
    """A change of a metric from the baseline to an arm, with its adjusted p value."""

    metric: Metric
    arm: str
    before: float
    after: float
    p: float

    @property
    def is_better(self) -> bool | None:
        """Whether the metric improves; None if no direction is better."""
        better = self.metric.higher_is_better
        return None if better is None else (self.after > self.before) == better


def change_of(arm: ArmSummary, baseline: ArmSummary, metric: str) -> Change | None:
    """The change if it is significant and notable; None for arms that hurt, whose metrics have all changed."""
    effect = arm.effects.get(metric)
    if effect is None or not effect.p < ALPHA or arm.verdict in (Verdict.HURTS, Verdict.COLLAPSES):
        return None
    before, after = baseline.average(metric), arm.average(metric)
    if not _is_notable(metric, before, after):
        return None
    return Change(METRICS[metric], arm.name, before, after, effect.p)


def _is_notable(metric: str, before: float, after: float) -> bool:
    if metric == "val_accuracy":
        return abs(after - before) >= NOTABLE_DIFFERENCE
    return min(before, after) > 0 and max(before, after) >= NOTABLE_RATIO * min(before, after)


def worsened(arm: ArmSummary, baseline: ArmSummary) -> list[str]:
    """The names of the metrics that get worse."""
    changes = [change_of(arm, baseline, metric) for metric in METRICS]
    return [change.metric.name for change in changes if change is not None and change.is_better is False]
