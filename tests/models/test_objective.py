"""The metric by which epochs and arms are compared."""

import math
from typing import get_args

import pytest

from regularization.models.metrics import MODES
from regularization.models.objective import ACCURACY, Objective, ObjectiveName, best_row


@pytest.mark.parametrize("metric", get_args(ObjectiveName))
def test_each_is_a_metric_with_its_direction(metric: str) -> None:
    assert Objective(metric).mode == MODES[metric]
    assert Objective(metric).name


def test_how_values_are_written() -> None:
    loss = Objective("val_loss")
    assert (ACCURACY.format(0.925), loss.format(0.4251)) == ("92.50%", "0.4251")
    assert (ACCURACY.format_difference(0.0041), loss.format_difference(-0.0041)) == ("+0.41", "-0.0041")
    assert (ACCURACY.with_unit("0.41"), loss.with_unit("0.0041")) == ("0.41 points", "0.0041")
    assert (ACCURACY.format_resolution(0.5), loss.format_resolution(0.5)) == ("0.5 points", "0.005")


def test_the_best_row_is_the_first_of_the_best() -> None:
    rows = [
        {"epoch": 0.0, "val_loss": math.nan},
        {"epoch": 1.0, "val_accuracy": 0.5, "val_loss": 0.3},
        {"epoch": 2.0, "val_accuracy": 0.7, "val_loss": 0.4},
        {"epoch": 3.0, "val_accuracy": 0.7, "val_loss": 0.3},
    ]
    assert best_row(rows, ACCURACY) is rows[2]
    assert best_row(rows, Objective("val_loss")) is rows[1]
    assert best_row(rows[:1], ACCURACY) is None
