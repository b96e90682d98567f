"""The tables in docs/findings.md have the numbers of the stored runs."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from regularization.study.analysis.arms import ArmSummary, summarize_arms
from regularization.study.analysis.looks import fixed_alpha
from regularization.study.results import by_arm
from tests.benchmarks.conclusion import find_baseline, read_results, read_study

ROOT = Path(__file__).parents[1]
# The table of runs behind each table of arms, where it has another name than the config in the command.
STORED = {"quickstart": "quickstart_fixed"}
# Studies that were extended after a first analysis: the number of analyses.
LOOKS = {"lambda_curve": 2, "width_16": 2, "batch_64": 2}
COLUMNS: dict[str, Callable[[ArmSummary], list[float]]] = {
    "validation accuracy": lambda arm: [100 * arm.mean],
    "training accuracy": lambda arm: [100 * arm.average("clean_accuracy")],
    "NLL": lambda arm: [arm.average("val_loss")],
    "calibration error": lambda arm: [arm.average("val_calibration_error")],
    "‖w‖": lambda arm: [arm.average("weight_norm")],
    "gain": lambda arm: [100 * value for value in (arm.difference, *arm.interval)],
}


def tables_of_arms() -> dict[str, list[dict[str, str]]]:
    """By the name of the study in the command of a section: its first table with gains, one dict per row."""
    found = {}
    for section in (ROOT / "docs" / "findings.md").read_text().split("\n## ")[1:]:
        command = re.search(r"sweep --config configs/sweeps/(\w+)\.yaml", section)
        lines = re.findall(r"^\|.*\|$", section, re.MULTILINE)
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        if command and rows and {"gain", "validation accuracy", "NLL"} <= set(rows[0]):
            found[command[1]] = [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return found


def summaries(name: str) -> list[ArmSummary]:
    """The arms of a stored study."""
    study = read_study(ROOT / "configs" / "sweeps" / f"{name}.yaml")
    results = read_results(ROOT / "docs" / "measurements" / "runs" / f"{STORED.get(name, name)}.csv.gz")
    return summarize_arms(by_arm(results), study, find_baseline(results, study), fixed_alpha(LOOKS.get(name, 1) - 1))


def test_findings_has_tables_of_arms() -> None:
    assert tables_of_arms().keys() >= {"lambda_curve", "fast_kinds", "norms_and_biases", "quickstart", "digits_tuned"}


@pytest.mark.parametrize("name", tables_of_arms())
def test_a_table_of_arms_has_the_numbers_of_the_stored_runs(name: str) -> None:
    rows, arms = tables_of_arms()[name], summaries(name)
    assert len(rows) == len(arms)
    for row in rows:
        same = [
            arm for arm in arms if all(agrees(row.get(column, ""), *values(arm)) for column, values in COLUMNS.items())
        ]
        assert len(same) == 1, row
        assert row.get("verdict", "") in ("", same[0].verdict and same[0].verdict.value)
        arms.remove(same[0])


def agrees(cell: str, *values: float) -> bool:
    """Whether the numbers in a cell are these values, rounded; an empty cell agrees with all."""
    found = re.findall(r"[−+]?\d+\.?(\d*)", cell), re.findall(r"[−+]?\d+\.?\d*", cell)
    return all(
        float(text.replace("−", "-")) == pytest.approx(value, abs=0.501 * 10.0 ** -len(decimals))
        for decimals, text, value in zip(*found, values, strict=bool(cell))
    )
