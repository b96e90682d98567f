"""The metric by which epochs and arms are compared."""

import math

import pytest

from regularization.errors import UserError
from regularization.models.objective import ACCURACY, LOSS, Objective, best_row

# The metrics with a known direction, and that direction.
KNOWN = {
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
}


@pytest.mark.parametrize(("metric", "mode"), KNOWN.items())
def test_metrics_of_this_program_have_a_direction(metric: str, mode: str) -> None:
    objective = Objective.parse(metric)
    assert (objective.metric, objective.mode, objective.is_known) == (metric, mode, True)
    # Giving the known direction explicitly results in the same objective.
    assert Objective.parse(f"{mode}:{metric}") == objective
    opposite = {"min": "max", "max": "min"}[mode]
    better = {"min": "lower", "max": "higher"}[mode]
    with pytest.raises(UserError, match=f"{metric} is better when {better}, so it cannot be {opposite}:{metric}"):
        Objective.parse(f"{opposite}:{metric}")


@pytest.mark.parametrize("metric", ["val_top_two", "sparsity", "norm/stem", "val/auc", "F1@0.5"])
def test_any_other_metric_needs_one(metric: str) -> None:
    for mode, sign in (("max", 1), ("min", -1)):
        objective = Objective.parse(f"{mode}:{metric}")
        assert (objective.metric, objective.mode, objective.sign, objective.name) == (metric, mode, sign, metric)
        assert not objective.is_known
    with pytest.raises(UserError, match=f"no known direction.*give max:{metric} if higher is better, min:{metric} if"):
        Objective.parse(metric)


@pytest.mark.parametrize("option", ["", "max:", "best:val_loss", "max:a b", "max:a:b", "<b>", "max: val_loss"])
def test_what_is_not_a_metric(option: str) -> None:
    with pytest.raises(UserError, match="is not a metric"):
        Objective.parse(option)


def test_the_closest_metric_is_named() -> None:
    with pytest.raises(UserError, match=r"val_acc has no known direction \(did you mean val_accuracy"):
        Objective.parse("val_acc")


def test_values_of_a_metric_of_unknown_scale_are_plain_numbers() -> None:
    own = Objective.parse("max:val_score")
    assert [own.format(value) for value in (0.9251, 12345.6, -3e-7)] == ["0.9251", "12346", "-3e-07"]
    assert [own.format_difference(value) for value in (0.01234, -1234.5, 2e-8)] == ["+0.0123", "-1.23e+03", "+2e-08"]
    assert (own.with_unit("0.41"), own.format_resolution(250)) == ("0.41", "2.5")
    assert (own.lowest, own.highest, own.collapse) == (-math.inf, math.inf, math.inf)
    assert (ACCURACY.lowest, ACCURACY.highest, ACCURACY.collapse) == (0, 1, 0.1)
    assert (LOSS.lowest, LOSS.highest, LOSS.collapse) == (0, math.inf, math.inf)


def test_how_values_are_written() -> None:
    loss = Objective.parse("val_loss")
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
    assert best_row(rows, LOSS) is rows[1]
    assert best_row(rows[:1], ACCURACY) is None
