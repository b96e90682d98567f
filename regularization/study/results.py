"""Results of complete runs, read from their run folders."""

import csv
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regularization.models.objective import Objective
from regularization.runs import directory
from regularization.study.config import PRUNED, TRIAL, Study, unregularized
from regularization.training.configs import read_config

Row = dict[str, float]
# All finished trials of a study.
TABLE = "results.csv"


@dataclass(frozen=True)
class Result:
    """The result of one complete run.

    Attributes:
        arm: What was trained; runs of the same arm differ by their seed.
        group: The name of the arm in the config; the tuned values of an arm share it.
        values: The options that the arm sets.
        seed: Its seed.
        stage: ``search`` or ``final``.
        folder: Its run folder.
        accuracy: The validation accuracy in the epoch that counts; NaN without validation.
        row: All metrics of that epoch.
        rows: Metrics of all epochs.
        weight_decay: The optimizer's λ.
        timescale: τ in epochs; None without a timescale.
        test_accuracy: The accuracy on the test images; None if they were not scored.
        pruned: Whether a search stopped it early.
        unregularized: Whether its arm is known to have no regularization.
    """

    arm: str
    group: str
    values: dict[str, Any]
    seed: int
    stage: str
    folder: Path
    accuracy: float
    row: Row
    rows: list[Row] = field(repr=False)
    weight_decay: float
    timescale: float | None
    test_accuracy: float | None
    pruned: bool
    unregularized: bool = False

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint for ``load``: the best one, or the last one without validation."""
        which = "last" if math.isnan(self.accuracy) else "best"
        return self.folder / directory.CHECKPOINTS / f"{which}.ckpt"

    @property
    def seconds(self) -> float:
        """Training time."""
        return sum(row["seconds"] for row in self.rows)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return int(self.rows[-1]["step"])

    @property
    def run_length(self) -> float | None:
        """Epochs divided by the timescale τ at the schedule's highest learning rate; None without τ."""
        return (self.rows[-1]["epoch"] + 1) / self.timescale if self.timescale else None

    def metric(self, name: str) -> float:
        """The value of a metric, or of ``weight_norm``, in the epoch that counts; NaN if it was not measured."""
        return self.weight_norm if name == "weight_norm" else self.row.get(name, math.nan)

    def score(self, study: Study) -> float:
        """The study's objective, with a sign so that higher is better."""
        objective = Objective.parse(study.objective)
        return objective.sign * self.metric(objective.metric)

    @property
    def weight_norm(self) -> float:
        """Norm of all weights in the epoch that counts; NaN if it was not measured."""
        norms = [value for name, value in self.row.items() if name.startswith("norm/")]
        return math.sqrt(sum(norm**2 for norm in norms)) if norms else math.nan

    def logits(self) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64]] | None:
        """Logits ``(N, C)``, labels and indices ``(N,)`` of its validation images, or None."""
        path = self.folder / directory.LOGITS
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return kept["logits"], kept["labels"], kept["index"]


def read(folder: Path, score: str = "last", validated: bool = True) -> Result | None:
    """Reads the result in a run folder; None if the run is incomplete, or (with a warning) if its files are damaged.

    Args:
        folder: The run folder.
        score: The epoch that counts: ``last`` or ``best``.
        validated: Whether to return None for a run without validation.
    """
    if not (folder / directory.RESULT).is_file() or not (folder / directory.METRICS).is_file():
        return None
    summary = directory.read_result(folder)
    if summary and (score not in summary or (validated and "val_accuracy" not in summary[score])):
        return None
    rows = read_rows(folder)
    row = next((row for row in rows if summary and row.get("epoch") == summary[score]["epoch"]), None)
    if row is None or (validated and not math.isfinite(row.get("val_accuracy", math.nan))):
        warnings.warn(
            f"{folder} is left out: its {directory.RESULT} does not fit its {directory.METRICS}", stacklevel=2
        )
        return None
    return Result(
        **read_trial(folder),
        folder=folder,
        accuracy=row.get("val_accuracy", math.nan),
        row=row,
        rows=rows,
        weight_decay=summary.get("weight_decay", math.nan),
        timescale=summary.get("timescale_epochs"),
        test_accuracy=summary.get("test", {}).get("test_accuracy"),
        pruned=(folder / PRUNED).is_file(),
    )


def read_trial(folder: Path) -> dict[str, Any]:
    """The description of a run's trial; a run of ``fit`` is an arm with the name of its config."""
    if (folder / TRIAL).is_file():
        trial = json.loads((folder / TRIAL).read_text(encoding="utf-8"))
        trial.setdefault("unregularized", unregularized(trial["values"]))
        return {name: trial[name] for name in ("arm", "group", "values", "seed", "stage", "unregularized")}
    seed = read_config(folder / directory.CONFIG).get("seed_everything")
    name = folder.parent.name
    return {"arm": name, "group": name, "values": {}, "seed": int(seed or 0), "stage": "final"}


def read_rows(folder: Path) -> list[Row]:
    """Reads ``metrics.csv``, one row per epoch; metrics that were not measured in an epoch are left out."""
    with (folder / directory.METRICS).open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def by_arm(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each arm, ordered by seed."""
    arms = dict.fromkeys(result.arm for result in results)
    ordered = sorted(results, key=lambda result: result.seed)
    return {arm: [result for result in ordered if result.arm == arm] for arm in arms}
