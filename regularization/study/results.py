"""Results: what finished runs have left in their folders."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.config import FAILED, PRUNED, TRIAL, unregularized

Row = dict[str, float]


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        arm: What was trained; runs of the same arm differ by their seed.
        group: The arm that it is a tuned value of.
        values: The options that make the arm.
        seed: Its seed.
        stage: ``search`` or ``final``.
        folder: Its run folder.
        accuracy: Its score, the validation accuracy of the epoch that counts; NaN where it was not validated.
        row: All metrics of that epoch.
        rows: Metrics of all epochs.
        weight_decay: The optimizer's λ.
        timescale: τ in epochs, None where there is none.
        test_accuracy: Where it was scored.
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
        """The epoch with the best validation accuracy, for ``load``; the last one where it was not validated."""
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
    def decay(self) -> float:
        """Run length over τ."""
        return self.rows[-1].get("accumulated_decay", 0.0)

    def logits(self) -> tuple[NDArray[np.float16], NDArray[np.int64], NDArray[np.int64]] | None:
        """Logits ``(N, C)``, labels and indices ``(N,)`` of its validation images, or None."""
        path = self.folder / directory.LOGITS
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return kept["logits"], kept["labels"], kept["index"]


def read(folder: Path, score: str = "last", validated: bool = True) -> Result | None:
    """The result in a run folder, or None when the run has not come to its end.

    Args:
        folder: The run folder.
        score: The epoch that counts: ``last`` or ``best``.
        validated: Whether one without validation is none.
    """
    if not (folder / directory.RESULT).is_file() or not (folder / directory.METRICS).is_file():
        return None
    kept = json.loads((folder / directory.RESULT).read_text())
    about = _about(folder)
    rows = read_rows(folder)
    if score not in kept or (validated and "val_accuracy" not in kept[score]):
        return None
    row = next(row for row in rows if row["epoch"] == kept[score]["epoch"])
    return Result(
        **about,
        folder=folder,
        accuracy=row.get("val_accuracy", math.nan),
        row=row,
        rows=rows,
        weight_decay=kept.get("weight_decay", math.nan),
        timescale=kept.get("timescale_epochs"),
        test_accuracy=kept.get("test", {}).get("test_accuracy"),
        pruned=(folder / PRUNED).is_file(),
    )


def _about(folder: Path) -> dict[str, Any]:
    if (folder / TRIAL).is_file():
        kept = json.loads((folder / TRIAL).read_text())
        kept.setdefault("unregularized", unregularized(kept["values"]))
        return {name: kept[name] for name in ("arm", "group", "values", "seed", "stage", "unregularized")}
    # A run by ``fit``: its config's name is its arm.
    from regularization.training.configs import read_config

    seed = read_config(folder / directory.CONFIG).get("seed_everything")
    name = folder.parent.name
    return {"arm": name, "group": name, "values": {}, "seed": int(seed or 0), "stage": "final"}


def read_rows(folder: Path) -> list[Row]:
    """``metrics.csv``, an epoch a row; what an epoch does not have is left out."""
    with (folder / directory.METRICS).open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def find(folders: Iterable[Path], score: str = "last") -> list[Result]:
    """The results of all finished runs in or below ``folders``.

    Raises:
        UserError: When there are none.
    """
    folders = list(folders)
    found = dict.fromkeys(path.parent for folder in folders for path in sorted(folder.rglob(directory.RESULT)))
    results = [result for folder in found if (result := read(folder, score)) is not None]
    if not results:
        raise UserError(f"there are no finished runs with a validation in {', '.join(map(str, folders))}")
    return _disambiguate_arms(results)


def _disambiguate_arms(results: list[Result]) -> list[Result]:
    """Runs by ``fit`` of the same name are one arm only where nothing but their seeds differs."""
    settings: dict[str, dict[str, str]] = {}
    keys = {}
    for one in results:
        if not (one.folder / TRIAL).is_file():
            keys[one.folder] = _without_seeds(one.folder)
            settings.setdefault(one.arm, {}).setdefault(keys[one.folder], f"{one.arm}/{one.folder.name}")
    apart = {name: arms for name, arms in settings.items() if len(arms) > 1}
    names = {one.folder: apart[one.arm][keys[one.folder]] for one in results if one.arm in apart and one.folder in keys}
    return [
        replace(one, arm=names[one.folder], group=names[one.folder]) if one.folder in names else one for one in results
    ]


def _without_seeds(folder: Path) -> str:
    from regularization.training.configs import read_config

    config = read_config(folder / directory.CONFIG)
    config.pop("seed_everything", None)
    for seed in ("seed", "split_seed"):
        config["data"].get("init_args", {}).pop(seed, None)
    return json.dumps(config, sort_keys=True, default=str)


def failures(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Why trials of the final failed, by arm."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob(FAILED)):
        about = _about(path.parent)
        if about["stage"] == "final":
            found.setdefault(about["arm"], []).append(f"seed {about['seed']}: {path.read_text().strip()}")
    return found


def by_arm(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each arm, by seed."""
    arms = dict.fromkeys(result.arm for result in results)
    return {arm: sorted((one for one in results if one.arm == arm), key=lambda one: one.seed) for arm in arms}


def write_table(results: Sequence[Result], path: Path) -> None:
    """One row a run as CSV: arm, seed, what was set, and the metrics of the epoch that counts."""
    settings = list(dict.fromkeys(option for result in results for option in result.values))
    metrics = ["val_accuracy", "val_loss", "val_calibration_error", "clean_accuracy", "gap_accuracy", "sparsity"]
    with directory.atomic_write(path) as aside, aside.open("w", newline="") as file:
        writer = csv.writer(file)
        first = ["arm", "seed", "stage", *settings, "weight_decay", "timescale_epochs", "run_length_over_tau"]
        writer.writerow([*first, *metrics, "test_accuracy", "epoch", "steps", "seconds", "folder"])
        for one in results:
            values = [one.values.get(option, "") for option in settings]
            about = [one.arm, one.seed, one.stage, *values, one.weight_decay, one.timescale, one.decay]
            measured = [one.row.get(metric, "") for metric in metrics]
            cost = [one.test_accuracy, int(one.row["epoch"]), one.steps, round(one.seconds, 1), one.folder]
            writer.writerow([*about, *measured, *cost])
