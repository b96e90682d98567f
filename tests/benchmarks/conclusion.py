"""Draws the conclusion of a study from its table of runs, without training: sentence, table of arms and figure.

``python -m tests.benchmarks.conclusion docs/measurements/runs/lambda_curve.csv.gz --figure lambda.png`` prints what
``sweep`` would say about these runs and a table in Markdown, as in ``docs/findings.md``. The study's config is
``configs/sweeps/NAME.yaml``, unless ``--study`` names another one.
"""

import argparse
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.conclusion import Conclusion, Context, draw_conclusion
from regularization.study.analysis.looks import fixed_alpha
from regularization.study.config import Study, unregularized
from regularization.study.report.paper import paper_figure
from regularization.study.results import Result
from regularization.training.configs import read_config
from tests.benchmarks.runs import METRICS, rows

CONFIGS = Path(__file__).parents[2] / "configs" / "sweeps"
COLUMNS = ("arm", "τ", "validation accuracy", "gain", "verdict", "training accuracy", "NLL", "calibration error", "‖w‖")


def conclude(table: Path, study: Study, looks: int = 1) -> Conclusion:
    """The conclusion from all runs of the table that are compared, each arm with the seeds that it has.

    Args:
        table: The table of runs.
        study: The study, a fixed design.
        looks: The number of times that the results have been analyzed, this one included: 2 if the study was extended
            after a first analysis. Intervals are those of the last analysis.
    """
    results = read_results(table)
    baseline = find_baseline(results, study)
    return draw_conclusion(results, study, Context(baseline=baseline, alpha=fixed_alpha(looks - 1)))


def read_results(table: Path) -> list[Result]:
    """The runs of the table that are compared."""
    return [to_result(row) for row in rows(table) if row["stage"] == "final" and row["val_accuracy"]]


def find_baseline(results: list[Result], study: Study) -> str | None:
    """Name of the arm to compare with: the one that the study names, else the one without regularization."""
    named = [result.arm for result in results if study.baseline in (result.arm, result.group)]
    return next(iter(named or [result.arm for result in results if result.unregularized]), None)


def to_result(row: dict[str, str]) -> Result:
    """The result of a run, as far as its row in the table tells; its folder does not exist."""
    measured = {name: float(row[name]) for name in METRICS if row[name]}
    if "clean_accuracy" in measured:
        measured["gap_accuracy"] = measured["clean_accuracy"] - measured["val_accuracy"]
    cost = {"epoch": float(row["epochs"]) - 1, "step": float(row["steps"]), "seconds": float(row["seconds"])}
    norm = {"norm/all": float(row["weight_norm"])} if row["weight_norm"] else {}
    values: dict[str, Any] = json.loads(row["options"])
    return Result(
        arm=row["arm"],
        group=row["arm"].partition(",")[0],
        values=values,
        seed=int(row["seed"]),
        stage=row["stage"],
        folder=Path(),
        accuracy=measured["val_accuracy"],
        row=measured | cost | norm,
        rows=[measured | cost | norm],
        weight_decay=float(row["weight_decay"]),
        timescale=float(row["tau"]) if row["tau"] else None,
        test_accuracy=float(row["test_accuracy"]) if row["test_accuracy"] else None,
        pruned=False,
        unregularized=unregularized(values),
    )


def read_study(path: Path) -> Study:
    """The study in a config file, as a fixed design."""
    return Study(**read_config(path) | {"until": "seeds"})


def to_markdown(conclusion: Conclusion) -> str:
    """The arms as a table in Markdown."""
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    return "\n".join(lines + [_line(_cells(arm)) for arm in conclusion.arms])


def _cells(arm: ArmSummary) -> list[str]:
    gain = "" if arm.comparison is None else f"{_points(arm.difference)} ({' to '.join(map(_points, arm.interval))})"
    return [
        f"{arm.name} ({len(arm.results)} seeds)",
        f"{arm.timescale:.3g}" if arm.timescale else "",
        f"{100 * arm.mean:.2f}%",
        gain,
        arm.verdict.value if arm.verdict else "",
        f"{100 * arm.average('clean_accuracy'):.2f}%",
        f"{arm.average('val_loss'):.3f}",
        f"{arm.average('val_calibration_error'):.3f}",
        f"{arm.average('weight_norm'):.1f}",
    ]


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f}".replace("-", "−") if math.isfinite(fraction) else "?"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="TABLE", help="such as docs/measurements/runs/lambda_curve.csv.gz")
    parser.add_argument("--study", type=Path, metavar="CONFIG", help="by default, the config of the table's name")
    looks = "2 if the study was extended after a first analysis"
    parser.add_argument("--looks", type=int, choices=range(1, 5), default=1, help=looks)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="also draw the figure of the report")
    args = parser.parse_args()
    study = read_study(args.study or CONFIGS / f"{args.table.name.removesuffix('.csv.gz')}.yaml")
    conclusion = conclude(args.table, study, args.looks)
    print(conclusion.sentence, *conclusion.remarks, "", to_markdown(conclusion), sep="\n")
    if args.figure:
        paper_figure(conclusion, study).savefig(args.figure, dpi=150)


if __name__ == "__main__":
    main()
