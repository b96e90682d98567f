"""Results of complete runs, read from their run folders."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.config import FAILED, PRUNED, TRIAL, unregularized
from regularization.training.configs import read_config

Row = dict[str, float]


@dataclass(frozen=True)
class Result:
    """The result of one complete run.

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
    def run_length(self) -> float | None:
        """Epochs over the timescale τ, which is that of the schedule's highest learning rate; None without τ."""
        return (self.rows[-1]["epoch"] + 1) / self.timescale if self.timescale else None

    def metric(self, name: str) -> float:
        """A metric in the epoch that counts, ``weight_norm`` among them; NaN where it was not measured."""
        return self.weight_norm if name == "weight_norm" else self.row.get(name, math.nan)

    @property
    def weight_norm(self) -> float:
        """Norm of all weights in the epoch that counts; NaN where it was not measured."""
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
    """The result in a run folder; None if the run is not complete.

    Args:
        folder: The run folder.
        score: The epoch that counts: ``last`` or ``best``.
        validated: Whether a run without validation has no result.
    """
    if not (folder / directory.RESULT).is_file() or not (folder / directory.METRICS).is_file():
        return None
    summary = json.loads((folder / directory.RESULT).read_text())
    rows = read_rows(folder)
    if score not in summary or (validated and "val_accuracy" not in summary[score]):
        return None
    row = next(row for row in rows if row["epoch"] == summary[score]["epoch"])
    return Result(
        **_read_trial(folder),
        folder=folder,
        accuracy=row.get("val_accuracy", math.nan),
        row=row,
        rows=rows,
        weight_decay=summary.get("weight_decay", math.nan),
        timescale=summary.get("timescale_epochs"),
        test_accuracy=summary.get("test", {}).get("test_accuracy"),
        pruned=(folder / PRUNED).is_file(),
    )


def _read_trial(folder: Path) -> dict[str, Any]:
    """Which trial a run is; a run of ``fit`` is an arm with the name of its config."""
    if (folder / TRIAL).is_file():
        trial = json.loads((folder / TRIAL).read_text())
        trial.setdefault("unregularized", unregularized(trial["values"]))
        return {name: trial[name] for name in ("arm", "group", "values", "seed", "stage", "unregularized")}
    seed = read_config(folder / directory.CONFIG).get("seed_everything")
    name = folder.parent.name
    return {"arm": name, "group": name, "values": {}, "seed": int(seed or 0), "stage": "final"}


def read_rows(folder: Path) -> list[Row]:
    """``metrics.csv``, one row per epoch; metrics that an epoch does not have are left out."""
    with (folder / directory.METRICS).open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


@dataclass(frozen=True)
class Failure:
    """A trial that failed, and why."""

    arm: str
    group: str
    seed: int
    stage: str
    reason: str


_Run = TypeVar("_Run", Result, Failure)


@dataclass(frozen=True)
class Runs:
    """The runs in some folders.

    Attributes:
        results: The results of complete runs, each once.
        failures: The trials that failed.
        left_out: Which other runs there are, in words.
    """

    results: list[Result]
    failures: list[Failure]
    left_out: list[str]


def find(folders: Iterable[Path], score: str = "last") -> Runs:
    """Finds the runs in or below ``folders``.

    Arms of one name in several studies, and runs of ``fit`` of one name, are the same arm if their options are equal,
    apart from seeds; otherwise each gets a name of its own. A run with the same options and seeds as another one is a
    copy: it is no second piece of evidence.

    Raises:
        UserError: When no run is complete.
    """
    folders = list(folders)
    run_dirs = _run_dirs(folders)
    complete = {run_dir: result for run_dir in run_dirs if (result := read(run_dir, score)) is not None}
    if not complete:
        raise UserError(f"there are no finished runs with a validation in {', '.join(map(str, folders))}")
    failed = {run_dir: _read_failure(run_dir) for run_dir in run_dirs if (run_dir / FAILED).is_file()}
    arms = {run_dir: run.arm for run_dir, run in complete.items()}
    names = _names(arms | {run_dir: failure.arm for run_dir, failure in failed.items()})
    results = [_renamed(result, names[run_dir]) for run_dir, result in complete.items()]
    unique = _without_copies(results)
    failures = dict.fromkeys(_renamed(failure, names[run_dir]) for run_dir, failure in failed.items())
    kinds: dict[str, list[Path]] = {"copies of other runs": sorted(complete.keys() - {run.folder for run in unique})}
    for run_dir in run_dirs:
        if run_dir not in complete and run_dir not in failed:
            kind = "without validation" if (run_dir / directory.RESULT).is_file() else "not finished"
            kinds.setdefault(kind, []).append(run_dir)
    left_out = [f"left out, {kind}: {_describe(run_dirs)}" for kind, run_dirs in kinds.items() if run_dirs]
    return Runs(unique, list(failures), left_out)


def _run_dirs(folders: Iterable[Path]) -> list[Path]:
    """The folders of runs and planned trials, each once."""
    files = (directory.RESULT, directory.METRICS, directory.CHECKPOINTS, TRIAL)
    paths = [
        path for folder in folders for path in sorted({run.parent for name in files for run in folder.rglob(name)})
    ]
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path)
    return list(unique.values())


def _read_failure(folder: Path) -> Failure:
    trial = _read_trial(folder)
    fields = {name: trial[name] for name in ("arm", "group", "seed", "stage")}
    return Failure(**fields, reason=(folder / FAILED).read_text().strip())


def _source(run_dir: Path) -> Path:
    """The folder of the study that a trial belongs to; of a run of ``fit``, its own folder."""
    if not (run_dir / TRIAL).is_file():
        return run_dir
    return run_dir.parents[2 if run_dir.name.startswith("seed_") else 1]


def _names(arms: Mapping[Path, str]) -> dict[Path, str]:
    """The name of the arm of each run: its own one, or one that tells where it is from."""
    first_runs: dict[str, dict[Path, Path]] = {}
    for run_dir, arm in arms.items():
        first_runs.setdefault(arm, {}).setdefault(_source(run_dir), run_dir)
    names: dict[tuple[str, Path], str] = {}
    for arm, runs in first_runs.items():
        by_options: dict[str, list[Path]] = {}
        for source, run_dir in runs.items():
            by_options.setdefault(_options_without_seeds(run_dir) if len(runs) > 1 else "", []).append(source)
        sources = [same[0] for same in by_options.values()]
        short = [Path(*source.parts[-2:]) for source in sources]
        shown = short if len(set(short)) == len(short) else sources
        for label, same in zip(shown, by_options.values(), strict=True):
            is_trial = runs[same[0]] != same[0]
            own_name = f"{label}/{arm}" if is_trial else str(label)
            names |= {(arm, source): own_name if len(sources) > 1 else arm for source in same}
    return {run_dir: names[arm, _source(run_dir)] for run_dir, arm in arms.items()}


def _renamed(run: _Run, name: str) -> _Run:
    """The run as one of the arm ``name``."""
    group = name if run.group == run.arm else name.removesuffix(run.arm) + run.group
    return replace(run, arm=name, group=group)


def _without_copies(results: Sequence[Result]) -> list[Result]:
    """Leaves out runs of an arm that have the same seeds as another one."""
    counts = Counter((result.arm, result.stage, result.seed) for result in results)
    unique: dict[tuple[Any, ...], Result] = {}
    for result in results:
        key = (result.arm, result.stage, result.seed)
        seeds = _split_options(result.folder)[1] if counts[key] > 1 else {}
        unique.setdefault((*key, *seeds.values()), result)
    return list(unique.values())


def _options_without_seeds(run_dir: Path) -> str:
    """What a run was trained with, apart from seeds; the folder itself where that cannot be read."""
    try:
        return json.dumps(_split_options(run_dir)[0], sort_keys=True, default=str)
    except UserError:
        return str(run_dir)


def _split_options(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options in a run's config, without seeds and the folder that it was written to; and the seeds."""
    config = read_config(run_dir / directory.CONFIG)
    data = (config.get("data") or {}).get("init_args") or {}
    seeds = {"seed_everything": config.pop("seed_everything", None)}
    seeds |= {name: data.pop(name, None) for name in ("seed", "split_seed")}
    (config.get("trainer") or {}).pop("default_root_dir", None)
    return config, seeds


def _describe(run_dirs: Iterable[Path]) -> str:
    """Names runs, and the studies of trials with their number."""
    counts = Counter(_source(run_dir) for run_dir in run_dirs if (run_dir / TRIAL).is_file())
    trials = [f"{count} trials of {study}" for study, count in counts.items()]
    runs = [str(run_dir) for run_dir in run_dirs if not (run_dir / TRIAL).is_file()]
    return ", ".join([*trials, *runs])


def by_arm(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The results of each arm, ordered by seed."""
    arms = dict.fromkeys(result.arm for result in results)
    ordered = sorted(results, key=lambda result: result.seed)
    return {arm: [result for result in ordered if result.arm == arm] for arm in arms}
