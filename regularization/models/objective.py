"""Objective: the validation metric by which epochs and arms are compared. It imports no PyTorch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ObjectiveName = Literal["val_accuracy", "val_balanced_accuracy", "val_macro_f1", "val_loss", "val_calibration_error"]
DEFAULT: ObjectiveName = "val_accuracy"
_NAMES = {
    "val_accuracy": "validation accuracy",
    "val_balanced_accuracy": "balanced validation accuracy",
    "val_macro_f1": "validation macro F1",
    "val_loss": "validation loss",
    "val_calibration_error": "validation calibration error",
}


@dataclass(frozen=True)
class Objective:
    """A validation metric, the direction in which it improves, and how it is written.

    >>> Objective("val_loss").format(0.4251), Objective("val_accuracy").format(0.925)
    ('0.4251', '92.50%')

    Attributes:
        metric: The metric, as it is logged.
    """

    metric: str = DEFAULT

    @property
    def mode(self) -> Literal["min", "max"]:
        """``max`` if higher is better, else ``min``."""
        return "min" if self.metric in ("val_loss", "val_calibration_error") else "max"

    @property
    def sign(self) -> int:
        """1 if higher is better, else −1: sign × metric is better when higher."""
        return 1 if self.mode == "max" else -1

    @property
    def name(self) -> str:
        """The metric in words."""
        return _NAMES[self.metric]

    @property
    def is_fraction(self) -> bool:
        """Whether the metric lies between 0 and 1, so that it is written in percent; the loss does not."""
        return self.metric != "val_loss"

    def format(self, value: float) -> str:
        """A value of the metric as text."""
        return f"{value:.2%}" if self.is_fraction else f"{value:.4f}"

    def format_difference(self, difference: float) -> str:
        """A difference as text with its sign: in percentage points, or that of losses."""
        return f"{100 * difference:+.2f}" if self.is_fraction else f"{difference:+.4f}"

    def with_unit(self, text: str) -> str:
        """A difference as text with its unit; losses have none."""
        return f"{text} points" if self.is_fraction else text

    def format_resolution(self, resolution: float) -> str:
        """The option ``resolution`` of a study, which is in hundredths, with its unit."""
        return self.with_unit(f"{resolution if self.is_fraction else resolution / 100:g}")


ACCURACY = Objective()


def best_row(rows: Sequence[dict[str, float]], objective: Objective) -> dict[str, float] | None:
    """The first row of metrics with the best value of the objective; None if no row has it."""
    validated = [row for row in rows if math.isfinite(row.get(objective.metric, math.nan))]
    return max(validated, key=lambda row: objective.sign * row[objective.metric], default=None)
