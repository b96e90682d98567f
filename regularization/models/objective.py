"""Objective: the metric by which epochs and arms are compared, and its direction. This module imports no PyTorch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from regularization.errors import UserError, did_you_mean

Mode = Literal["min", "max"]

# The metrics that a run logs once per epoch, besides norm/<layer> and penalty/<name>, and the direction of improvement.
MODES: dict[str, Mode | None] = {
    "train_loss": "min",
    "train_accuracy": "max",
    "val_loss": "min",
    "val_accuracy": "max",
    "val_calibration_error": "min",
    "val_balanced_accuracy": "max",
    "val_macro_f1": "max",
    "clean_loss": "min",
    "clean_accuracy": "max",
    "gap_loss": "min",
    "gap_accuracy": "min",
    "sparsity": None,
    "decay_share": None,
    "effective_lr": None,
    "accumulated_decay": None,
}
DEFAULT = "val_accuracy"
_NAMES = {
    "train_accuracy": "training accuracy",
    "val_accuracy": "validation accuracy",
    "val_balanced_accuracy": "balanced validation accuracy",
    "val_macro_f1": "validation macro F1",
    "clean_accuracy": "clean training accuracy",
    "val_calibration_error": "validation calibration error",
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "clean_loss": "clean training loss",
}
# Metrics between 0 and 1, which are written in percent.
_FRACTIONS = list(_NAMES)[:6]
# An arm has collapsed if its accuracy is lower than that of the baseline by more than this.
COLLAPSE = 0.1


@dataclass(frozen=True)
class Objective:
    """A metric, the direction in which it improves, and how it is written.

    >>> loss, own = Objective.parse("val_loss"), Objective.parse("max:val_top_two")
    >>> loss.mode, loss.format(0.4251), own.mode, own.metric
    ('min', '0.4251', 'max', 'val_top_two')

    Attributes:
        metric: The metric, as it is logged.
        mode: ``max`` if higher is better, else ``min``.
    """

    metric: str
    mode: Mode

    @classmethod
    def parse(cls, option: str) -> "Objective":
        """The objective that an option names: a metric of this program, or ``max:NAME`` or ``min:NAME`` of any other.

        Raises:
            UserError: When the direction is not known, or not the one in which the metric improves.
        """
        match = re.fullmatch(r"(?:(min|max):)?([\w./@+=-]+)", option)
        if match is None:
            raise UserError(f"objective: {option!r} is not a metric; give its name, or max:NAME or min:NAME")
        given, metric = match.groups()
        known = MODES.get(metric)
        if known is None and given is None:
            closest = did_you_mean(metric, [name for name, mode in MODES.items() if mode])
            raise UserError(
                f"objective: {metric} has no known direction{closest}; give max:{metric} if higher is better, "
                f"min:{metric} if lower is"
            )
        if known is not None and given not in (None, known):
            better = "higher" if known == "max" else "lower"
            raise UserError(f"objective: {metric} is better when {better}, so it cannot be {option}")
        return cls(metric, known or ("max" if given == "max" else "min"))

    @property
    def is_known(self) -> bool:
        """Whether it is a metric of this program, so that its direction and scale are known."""
        return MODES.get(self.metric) is not None

    @property
    def sign(self) -> int:
        """1 if higher is better, else −1: sign × metric is better when higher."""
        return 1 if self.mode == "max" else -1

    @property
    def name(self) -> str:
        """The metric in words, or as it is logged if there are none."""
        return _NAMES.get(self.metric, self.metric)

    @property
    def with_article(self) -> str:
        """The name within a sentence: ``the validation loss``, or the bare name of another metric."""
        return f"the {self.name}" if self.metric in _NAMES else self.name

    @property
    def title(self) -> str:
        """The name at the beginning of a heading."""
        return self.name.capitalize() if self.metric in _NAMES else self.name

    @property
    def is_fraction(self) -> bool:
        """Whether the metric lies between 0 and 1, so that it is written in percent; losses do not."""
        return self.metric in _FRACTIONS

    @property
    def lowest(self) -> float:
        """The lowest value that the metric can have; −∞ if it is not known."""
        return 0.0 if self.metric in _NAMES else -math.inf

    @property
    def highest(self) -> float:
        """The highest value that the metric can have."""
        return 1.0 if self.is_fraction else math.inf

    @property
    def collapse(self) -> float:
        """An arm that is below the baseline by more than this has collapsed; infinite for losses and others."""
        return COLLAPSE if self.is_fraction and self.mode == "max" else math.inf

    def format(self, value: float) -> str:
        """A value of the metric as text."""
        if self.is_fraction:
            return f"{value:.2%}"
        return f"{value:.4f}" if self.is_known else f"{value:.5g}"

    def format_difference(self, difference: float) -> str:
        """A difference as text with its sign: in percentage points, or in the unit of the metric."""
        if self.is_fraction:
            return f"{100 * difference:+.2f}"
        # Rounded, so that the difference of equal values is not shown as 1e-17.
        return f"{difference:+.4f}" if self.is_known else f"{round(difference, 14):+.3g}"

    def with_unit(self, text: str) -> str:
        """A difference as text with its unit; only fractions have one."""
        return f"{text} points" if self.is_fraction else text

    def format_resolution(self, resolution: float) -> str:
        """The option ``resolution`` of a study, which is in hundredths, with its unit."""
        return self.with_unit(f"{resolution if self.is_fraction else resolution / 100:g}")


ACCURACY, LOSS = Objective.parse(DEFAULT), Objective.parse("val_loss")


def best_row(rows: Sequence[dict[str, float]], objective: Objective) -> dict[str, float] | None:
    """The first row of metrics with the best value of the objective; None if no row has it."""
    validated = [row for row in rows if math.isfinite(row.get(objective.metric, math.nan))]
    return max(validated, key=lambda row: objective.sign * row[objective.metric], default=None)
