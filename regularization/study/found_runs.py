"""Finds the runs in folders: complete runs without copies, failed runs, and those that are left out."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from regularization.errors import UserError
from regularization.models.objective import ACCURACY, DEFAULT
from regularization.runs import directory
from regularization.study.config import FAILED, STUDY, TRIAL, unregularized
from regularization.study.results import Result, read, read_trial
from regularization.training.configs import read_config

# Maximum length of a name that is made of options.
LONGEST_NAME = 50
TIMESCALE = "model.timescale_epochs"


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
        left_out: Descriptions of the runs that are left out.
    """

    results: list[Result]
    failures: list[Failure]
    left_out: list[str]


def find(folders: Iterable[Path], score: str = "last") -> Runs:
    """Finds the runs in or below ``folders``.

    Arms with the same name in several studies, or in several runs of ``fit``, are one arm if their options are equal
    apart from seeds; otherwise each gets its own name. A run of ``fit`` is then named by the options in which it
    differs from the others of its config, such as ``weight_decay=0``, if this is short. A run with the same options and
    seeds as another one is a copy and does not count as further evidence.

    Raises:
        UserError: When no run is complete.
    """
    folders = list(folders)
    run_dirs, of_studies = _selected(folders)
    complete = {run_dir: result for run_dir in run_dirs if (result := read(run_dir, score)) is not None}
    foreign = [run_dir for run_dir in complete if _is_in_study(run_dir, folders)]
    for run_dir in foreign:
        del complete[run_dir]
    if not complete:
        raise UserError(f"there are no finished runs with a validation in {', '.join(map(str, folders))}")
    failed = {run_dir: _read_failure(run_dir) for run_dir in run_dirs if (run_dir / FAILED).is_file()}
    arms = {run_dir: run.arm for run_dir, run in complete.items()}
    names = _names(arms | {run_dir: failure.arm for run_dir, failure in failed.items()})
    complete = _mark_unregularized(complete, _without_regularization(arms))
    unique = _without_copies([_renamed(run, names[run_dir]) for run_dir, run in complete.items()])
    failures = dict.fromkeys(_renamed(failure, names[run_dir]) for run_dir, failure in failed.items())
    kinds: dict[str, list[Path]] = {"copies of other runs": sorted(complete.keys() - {run.folder for run in unique})}
    kinds["started by no study"] = foreign
    kinds["compared in the report of their study"] = of_studies
    for run_dir in run_dirs:
        if run_dir not in complete and run_dir not in failed and run_dir not in foreign:
            kind = "without validation" if (run_dir / directory.RESULT).is_file() else "not finished"
            kinds.setdefault(kind, []).append(run_dir)
    left_out = [f"left out, {kind}: {_describe(run_dirs)}" for kind, run_dirs in kinds.items() if run_dirs]
    return Runs(unique, list(failures), left_out)


def common_objective(folders: Iterable[Path]) -> tuple[str, str]:
    """The objective of the complete runs in or below ``folders``, and a remark if they have several.

    Returns:
        The objective as an option (accuracy if they have several), and the remark or an empty string.
    """
    options: Counter[str] = Counter()
    for run_dir in _selected(list(folders))[0]:
        if (run_dir / directory.RESULT).is_file():
            config = read_config(run_dir / directory.CONFIG) if (run_dir / directory.CONFIG).is_file() else {}
            options[str(config.get("objective", DEFAULT))] += 1
    if len(options) < 2:
        return next(iter(options), DEFAULT), ""
    names = ", ".join(f"{count} by {option}" for option, count in options.items())
    return DEFAULT, f"the runs have several objectives ({names}): they are compared by {ACCURACY.name}"


def single_study(folder: Path) -> Path | None:
    """The folder of the only study in or below ``folder``, if there are no other finished runs."""
    finished = [run_dir for run_dir in _run_dirs([folder]) if (run_dir / directory.RESULT).is_file()]
    sources = {_source(run_dir) for run_dir in finished if not _is_in_study(run_dir, [folder])}
    studies = [source for source in sources if (source / STUDY).is_file() and _contains(folder, source)]
    return studies[0] if len(sources) == len(studies) == 1 else None


def _selected(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The folders of runs to compare, and of trials that are compared in the report of their study.

    In a folder that also has runs of ``fit``, trials are left out unless the folder of their study is named: only the
    report of the study takes into account how its seeds were added.
    """
    run_dirs = _run_dirs(folders)
    trials = {run_dir: _source(run_dir) for run_dir in run_dirs if (run_dir / TRIAL).is_file()}
    runs = [run_dir for run_dir in run_dirs if run_dir not in trials and not _is_in_study(run_dir, folders)]
    runs = [run_dir for run_dir in runs if read(run_dir, "last") is not None]
    mixed = [folder for folder in folders if any(_contains(folder, run_dir) for run_dir in runs)]
    left_out = {
        study
        for study in trials.values()
        if (study / STUDY).is_file()
        and any(_contains(folder, study) for folder in mixed)
        and not any(_contains(study, folder) for folder in folders)
    }
    of_studies = [run_dir for run_dir, study in trials.items() if study in left_out]
    return [run_dir for run_dir in run_dirs if trials.get(run_dir) not in left_out], of_studies


def _contains(folder: Path, path: Path) -> bool:
    """Whether ``path`` is ``folder`` or lies in it, however they are spelled."""
    return path.resolve().is_relative_to(folder.resolve())


def _is_in_study(run_dir: Path, folders: Iterable[Path]) -> bool:
    """Whether a run that is no trial lies within a study that is in or below one of the ``folders``."""
    if (run_dir / TRIAL).is_file():
        return False
    between = [path for folder in folders for path in run_dir.resolve().parents if _contains(folder, path)]
    return any((path / STUDY).is_file() for path in between)


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
    trial = read_trial(folder)
    fields = {name: trial[name] for name in ("arm", "group", "seed", "stage")}
    return Failure(**fields, reason=(folder / FAILED).read_text(encoding="utf-8").strip())


def _source(run_dir: Path) -> Path:
    """The folder of the study that a trial belongs to; for a run of ``fit``, its own folder."""
    if not (run_dir / TRIAL).is_file():
        return run_dir
    run_dir = run_dir if run_dir.is_absolute() or len(run_dir.parents) > 3 else run_dir.resolve()
    return run_dir.parents[2 if run_dir.name.startswith("seed_") else 1]


def _names(arms: Mapping[Path, str]) -> dict[Path, str]:
    """The name of each run's arm: its own name, or one that also tells the source of the run."""
    first_runs: dict[str, dict[Path, Path]] = {}
    for run_dir, arm in arms.items():
        first_runs.setdefault(arm, {}).setdefault(_source(run_dir), run_dir)
    names: dict[tuple[str, Path], str] = {}
    for arm, runs in first_runs.items():
        by_options: dict[str, list[Path]] = {}
        for source, run_dir in runs.items():
            by_options.setdefault(_options_without_seeds(run_dir) if len(runs) > 1 else "", []).append(source)
        sources = [same[0] for same in by_options.values()]
        prefix = f"{arm}/" if len(first_runs) > 1 else ""
        for label, same in zip(_labels(sources, runs, prefix), by_options.values(), strict=True):
            is_trial = runs[same[0]] != same[0]
            own_name = f"{label}/{arm}" if is_trial else str(label)
            names |= {(arm, source): own_name if len(sources) > 1 else arm for source in same}
    return {run_dir: names[arm, _source(run_dir)] for run_dir, arm in arms.items()}


def _labels(sources: Sequence[Path], runs: Mapping[Path, Path], prefix: str) -> Sequence[str | Path]:
    """What distinguishes the sources of arms with one name: their options, if they are short, or their folders.

    The ``prefix`` keeps options of several configs apart.
    """
    if all(runs[source] == source for source in sources):
        changed = differences(sources).values()
        labels = [
            prefix + ",".join(f"{name.rpartition('.')[2]}={_short(value)}" for name, value in one.items())
            for one in changed
        ]
        if len(set(labels)) == len(labels) and 0 < max(map(len, labels)) <= LONGEST_NAME:
            return labels
    short = [Path(*source.parts[-2:]) for source in sources]
    return short if len(set(short)) == len(short) else sources


def _mark_unregularized(runs: Mapping[Path, Result], off: set[Path]) -> dict[Path, Result]:
    """Marks the runs in ``off`` as unregularized."""
    return {run_dir: replace(run, unregularized=True) if run_dir in off else run for run_dir, run in runs.items()}


def _short(value: Any) -> str:
    """Formats a value: a number without needless digits, a class without its module."""
    if isinstance(value, float):
        return f"{value:g}"
    is_class = isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", value)
    return str(value).rpartition(".")[2] if is_class else str(value)


def _without_regularization(arms: Mapping[Path, str]) -> set[Path]:
    """The runs of ``fit`` that set a regularization to 0 which other runs of the same config use."""
    runs: dict[str, list[Path]] = {}
    for run_dir, arm in arms.items():
        if not (run_dir / TRIAL).is_file():
            runs.setdefault(arm, []).append(run_dir)
    changed = [item for same in runs.values() for item in differences(same).items()]
    # A timescale τ overrides a weight decay of 0.
    return {run_dir for run_dir, values in changed if unregularized(values) and not values.get(TIMESCALE)}


def differences(run_dirs: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """For each run, the options that differ between runs, named as in ``fit``; empty if a config can't be read."""
    try:
        options = [_flat(_split_options(run_dir)[0]) for run_dir in run_dirs]
    except UserError:
        options = [{} for _ in run_dirs]
    names = dict.fromkeys(name for one in options for name in one)
    different = [name for name in names if any(one.get(name) != options[0].get(name) for one in options)]
    return {
        run_dir: {name: one.get(name) for name in different} for run_dir, one in zip(run_dirs, options, strict=True)
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested config to dotted names; the path of a class gets the name of its option."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        path = prefix if name in ("class_path", "init_args") else f"{prefix}.{name}".removeprefix(".")
        flat |= _flat(value, path) if isinstance(value, dict) else {path: value}
    return flat


def _renamed(run: _Run, name: str) -> _Run:
    """The run, with its arm renamed to ``name``."""
    group = name if run.group == run.arm else name.removesuffix(run.arm) + run.group
    return replace(run, arm=name, group=group)


def _without_copies(results: Sequence[Result]) -> list[Result]:
    """Leaves out runs that have the same arm, stage and seeds as another run."""
    counts = Counter((result.arm, result.stage, result.seed) for result in results)
    unique: dict[tuple[Any, ...], Result] = {}
    for result in results:
        key = (result.arm, result.stage, result.seed)
        seeds = _split_options(result.folder)[1] if counts[key] > 1 else {}
        unique.setdefault((*key, *seeds.values()), result)
    return list(unique.values())


def _options_without_seeds(run_dir: Path) -> str:
    """The options of a run apart from seeds, as JSON; the path of its folder if its config can't be read."""
    try:
        return json.dumps(_split_options(run_dir)[0], sort_keys=True, default=str)
    except UserError:
        return str(run_dir)


def _split_options(run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options in a run's config, without the seeds and the output folder; and the seeds."""
    config = read_config(run_dir / directory.CONFIG)
    data = (config.get("data") or {}).get("init_args") or {}
    seeds = {"seed_everything": config.pop("seed_everything", None)}
    seeds |= {name: data.pop(name, None) for name in ("seed", "split_seed")}
    (config.get("trainer") or {}).pop("default_root_dir", None)
    return config, seeds


def _describe(run_dirs: Iterable[Path]) -> str:
    """Describes runs by their paths, and trials by the number of trials in each study."""
    counts = Counter(_source(run_dir) for run_dir in run_dirs if (run_dir / TRIAL).is_file())
    trials = [f"{count} trials of {study}" for study, count in counts.items()]
    runs = [str(run_dir) for run_dir in run_dirs if not (run_dir / TRIAL).is_file()]
    return ", ".join([*trials, *runs])
