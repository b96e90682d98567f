"""The tables of a report: one row per arm, and one row per trial, which is also written as CSV."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regularization.models.objective import ACCURACY, Objective
from regularization.runs import directory
from regularization.study.analysis import statistics
from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.comparison import ALPHA, Comparison
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.analysis.sentences import format_interval, format_percent
from regularization.study.analysis.verdicts import Verdict
from regularization.study.report.image_pairs import PairedImages
from regularization.study.results import Result


@dataclass(frozen=True)
class Cell:
    """A cell: the text that is shown, and the value that its column is sorted by."""

    text: str
    value: str | float


@dataclass(frozen=True)
class TableRow:
    """A row: its cells by column, and whether it is highlighted."""

    cells: dict[str, Cell]
    highlighted: bool = False


MISSING = Cell("–", "")
# Columns that are hidden until the reader selects them: without them, the table fits a page of 1200 pixels.
HIDDEN = ("p", "difference by image", "corrected", "newly wrong", "run length / τ", "trials", "steps")
# Columns that are also hidden to make room for an objective other than the accuracy.
HIDDEN_FOR_OBJECTIVE = ("clean training accuracy", "training time (s)")
# Columns of the table of trials that are hidden at first.
HIDDEN_OF_TRIALS = ("clean training accuracy", "gap (points)", "steps")


def hidden_columns(objective: Objective) -> tuple[str, ...]:
    """The columns of the table of arms that are hidden at first."""
    return HIDDEN if objective == ACCURACY else (*HIDDEN, *HIDDEN_FOR_OBJECTIVE)


def arm_rows(
    conclusion: Conclusion, results: Sequence[Result], pairs: Mapping[str, PairedImages | None]
) -> list[TableRow]:
    """One row per arm.

    Args:
        conclusion: The conclusion of the study.
        results: All finished runs, including those of a search, so that the cost of tuning an arm is counted, too.
        pairs: For each arm, its comparison with the baseline image by image, or None.
    """
    return [
        TableRow(
            {
                **_accuracy_cells(arm),
                **_image_cells(pairs.get(arm.name)),
                **_training_cells(arm),
                **_cost_cells([result for result in results if result.group == arm.results[0].group]),
            },
            highlighted=arm is conclusion.chosen,
        )
        for arm in conclusion.arms
    ]


def trial_rows(results: Sequence[Result], objective: Objective) -> list[TableRow]:
    """One row per trial."""
    return [TableRow(_trial_cells(result, objective)) for result in results]


def write_table(results: Sequence[Result], path: Path, objective: Objective) -> None:
    """Writes one row per run as CSV: arm, seed, options, cost, and the metrics of the epoch that counts."""
    options = list(dict.fromkeys(option for result in results for option in result.values))
    metrics = ["val_accuracy", "val_loss", "val_calibration_error", "val_balanced_accuracy", "val_macro_f1"]
    metrics += ["clean_accuracy", "gap_accuracy", "sparsity"]
    metrics += [] if objective.metric in metrics else [objective.metric]
    columns = ["arm", "seed", "stage", *options, "weight_decay", "timescale_epochs", "run_length_over_tau", *metrics]
    rows = []
    for result in results:
        values = [result.values.get(option, "") for option in options]
        trial = [
            result.arm,
            result.seed,
            result.stage,
            *values,
            result.weight_decay,
            result.timescale,
            result.run_length,
        ]
        measured = [result.row.get(metric, "") for metric in metrics]
        cost = [int(result.row["epoch"]), result.steps, round(result.seconds, 1), result.folder]
        rows.append([*trial, *measured, result.test_accuracy, *cost])
    directory.write_csv(path, [*columns, "test_accuracy", "epoch", "steps", "seconds", "folder"], rows)


def _accuracy_cells(arm: ArmSummary) -> dict[str, Cell]:
    difference, p = MISSING, None
    tests = [result.test_accuracy for result in arm.results if result.test_accuracy is not None]
    if arm.verdict == Verdict.COLLAPSES:
        # The interval is left out, because it is too wide to be informative.
        difference = Cell(arm.objective.format_difference(arm.difference), arm.difference)
    elif arm.comparison is not None:
        difference, p = _difference(arm.comparison, arm.objective), arm.comparison.p
    return {
        "arm": _text(arm.name),
        arm.objective.name: _objective(arm),
        **({} if arm.objective == ACCURACY else {"validation accuracy": _effect(arm, "val_accuracy", ".2%")}),
        "test accuracy": _mean(_average(tests), *statistics.mean_interval(tests)) if tests else MISSING,
        "difference from baseline": difference,
        "p": _number(p, ".2g"),
        "verdict": _text(arm.verdict) if arm.verdict else MISSING,
    }


def _image_cells(pairs: PairedImages | None) -> dict[str, Cell]:
    return {
        "difference by image": MISSING if pairs is None else _difference(pairs.gain),
        "corrected": _number(None if pairs is None else pairs.fixed, ","),
        "newly wrong": _number(None if pairs is None else pairs.broken, ","),
    }


def _training_cells(arm: ArmSummary) -> dict[str, Cell]:
    return {
        "clean training accuracy": _effect(arm, "clean_accuracy", ".2%"),
        "NLL": _effect(arm, "val_loss", ".4f"),
        "ECE": _effect(arm, "val_calibration_error", ".4f"),
        "norm of the weights": _effect(arm, "weight_norm", ".3g"),
        "τ (epochs)": _number(arm.timescale or None, ".3g"),
        "run length / τ": _number(arm.results[0].run_length, ".2g"),
    }


def _cost_cells(results: Sequence[Result]) -> dict[str, Cell]:
    return {
        "trials": _number(len(results), ","),
        "steps": _number(sum(result.steps for result in results), ","),
        "training time (s)": _number(round(sum(result.seconds for result in results)), ","),
    }


def _trial_cells(result: Result, objective: Objective) -> dict[str, Cell]:
    value = result.metric(objective.metric)
    return {
        "arm": _text(result.arm),
        "seed": _number(result.seed, ","),
        "stage": Cell(result.stage + (" (stopped early)" if result.pruned else ""), result.stage),
        objective.name: MISSING if math.isnan(value) else Cell(objective.format(value), value),
        "validation accuracy": _number(result.accuracy, ".2%"),
        "NLL": _number(result.row.get("val_loss"), ".4f"),
        "ECE": _number(result.row.get("val_calibration_error"), ".4f"),
        "norm of the weights": _number(result.weight_norm, ".3g"),
        "clean training accuracy": _number(result.row.get("clean_accuracy"), ".2%"),
        "gap (points)": _number(_points(result.row.get("gap_accuracy")), ".2f"),
        "test accuracy": _number(result.test_accuracy, ".2%"),
        "epochs": _number(len(result.rows), ","),
        "steps": _number(result.steps, ","),
        "training time (s)": _number(result.seconds, ",.1f"),
        "folder": _text(str(result.folder)),
    }


def _text(text: str) -> Cell:
    return Cell(text, text)


def _number(value: float | None, spec: str) -> Cell:
    return MISSING if value is None or math.isnan(value) else Cell(format(value, spec), value)


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _mean(mean: float, low: float, high: float) -> Cell:
    return Cell(format_percent(mean) + ("" if math.isnan(low) else f" ({100 * low:.2f} to {100 * high:.2f})"), mean)


def _effect(arm: ArmSummary, metric: str, spec: str) -> Cell:
    """The mean of a metric, with an asterisk where it differs significantly from the baseline's."""
    value, effect = arm.average(metric), arm.effects.get(metric)
    if math.isnan(value):
        return MISSING
    return Cell(format(value, spec) + (" *" if effect is not None and effect.p < ALPHA else ""), value)


def _objective(arm: ArmSummary) -> Cell:
    if arm.objective.is_fraction:
        return _mean(arm.mean, arm.low, arm.high)
    ends = [f"{end:.4f}" if arm.objective.is_known else f"{end:.3g}" for end in (arm.low, arm.high)]
    interval = "" if math.isnan(arm.low) else f" ({ends[0]} to {ends[1]})"
    return Cell(arm.objective.format(arm.mean) + interval, arm.mean)


def _difference(comparison: Comparison, objective: Objective = ACCURACY) -> Cell:
    interval = "" if math.isnan(comparison.low) else f" ({format_interval(comparison, objective)})"
    text = objective.format_difference(comparison.difference) + interval
    return Cell(text, comparison.difference)


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
