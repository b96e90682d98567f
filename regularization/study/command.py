"""The commands ``sweep`` and ``report``."""

import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from regularization import runs
from regularization.callbacks.history import duration
from regularization.cli import RegularizationCLI
from regularization.mistakes import Mistake, nearest
from regularization.parser import Parser, config_paths, read_config
from regularization.study import results, space
from regularization.study.answer import Answer, answer
from regularization.study.planned import Planned
from regularization.study.report import write_report
from regularization.study.runner import Interrupted, Runner
from regularization.study.search import Halving, Proposals
from regularization.study.space import Arm, Study, Trial
from regularization.study.table import LiveTable

STUDY = "study.yaml"
REFIT = "refit"


def sweep(args: list[str]) -> None:
    """Runs a study from its config to its report, or goes on with one."""
    study, asked, common, place = _parse(args)
    space.check(study)
    arms = space.arms_of(study, place)
    bases = [study.base] if isinstance(study.base, str) else study.base
    configs = [word for name in bases for word in ("--config", str(space.find_config(name, place)))]
    common = [*configs, *space.typed(study.options), *common]
    plan = Plan(study, arms, space.baseline_of(study, arms), common, asked)
    plan.check()
    if asked.dry_run:
        return plan.describe()
    folder = _folder(plan, Path(asked.folder), runs.run_name([place]), asked.fresh)
    with runs.held(folder):
        try:
            _run(plan, folder, " ".join(map(shlex.quote, ["python", "-m", "regularization", "sweep", *args])))
        except Interrupted as stopped:
            print(f"stopped by {stopped}; the same command goes on\n{folder}")
            raise SystemExit(128 + stopped.number) from None


def report(args: list[str]) -> None:
    """Rebuilds a study's report, or makes one from any finished runs."""
    parser = Parser(prog="regularization report", description="Rebuilds the report of a study, or compares any runs.")
    parser.add_argument("folders", type=Path, nargs="+", help="A study's folder, or folders of runs.")
    parser.add_argument("--baseline", type=str | None, default=None, help="The arm that the others are compared with.")
    parser.add_argument("--output", type=Path | None, default=None, help="Where the report goes; the first folder.")
    asked = parser.parse_args(args)
    folders = [Path(folder) for folder in asked.folders]
    for folder in folders:
        if not folder.is_dir():
            raise Mistake(f"there is no folder {folder}")
    kept = folders[0] / STUDY
    about = yaml.safe_load(kept.read_text()) if len(folders) == 1 and kept.is_file() else {}
    study = Study(**about["study"]) if about else Study(base="", arms={"": None})
    found = [one for one in results.find(folders, study.score) if not _is_refit(one)]
    final = [one for one in found if one.stage == "final"] or found
    baseline = asked.baseline or about.get("baseline")
    if baseline is not None and baseline not in (known := {one.arm for one in final}):
        raise Mistake(f"--baseline: there is no arm {baseline}, there are {', '.join(sorted(known))}")
    place = Path(asked.output or folders[0])
    _close(answer(final, study, baseline), found, study, place, about.get("command", ""))


class Plan:
    """A study with its arms, before anything is run.

    Args:
        study: What was asked.
        arms: Its arms.
        baseline: The arm that the others are compared with, or None.
        common: Configs and options that all trials share.
        asked: The options of the command.
    """

    def __init__(self, study: Study, arms: list[Arm], baseline: Arm | None, common: list[str], asked: Any) -> None:
        self.study = study
        self.arms = arms
        self.baseline = baseline
        self.common = common
        devices = torch.cuda.device_count()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = asked.workers or devices or 1
        self.devices = devices
        self.threads = asked.threads or max(1, cores // self.workers)
        self.refit = asked.refit

    def trials(self, stage: str, arms: Sequence[Arm], folder: Path) -> list[Trial]:
        """The trials of a stage."""
        seeds = self.study.seed_list() if stage == "final" else list(range(self.study.search_seeds))
        return space.trials_of(self.study, arms, seeds, stage, self.common, folder)

    def stage(self) -> str:
        """The first one."""
        return "search" if self.study.adaptive else "final"

    def check(self) -> None:
        """Parses every trial and makes its network, data and trainer, before the first one starts.

        Raises:
            Mistake: Naming the arm that can't be run.
        """
        self.first: Planned | None = None
        for trial in self.trials(self.stage(), self.arms, Path()):
            try:
                planned = Planned(list(trial.args))
            except Mistake as mistake:
                raise Mistake(f"arm {trial.arm.name}: {mistake}") from None
            if planned.datamodule.val_size == 0:
                raise Mistake("a sweep chooses by held-out images: --data.val_size must be above 0")
            self.first = self.first or planned
            if trial.seed != self.trials(self.stage(), self.arms[:1], Path())[0].seed:
                break  # the other seeds differ by nothing else

    def describe(self) -> None:
        """Prints the trials with their steps, and what time and disk they would take."""
        assert self.first is not None
        trials = self.trials(self.stage(), self.arms, Path(self.stage()))
        for trial in trials:
            print(f"{trial.folder.parent.parent.name}  {trial.name}  {' '.join(trial.arm.args)}")
        steps, seconds, size = self.first.cost()
        total = duration(seconds * len(trials) / self.workers)
        print(f"{len(trials)} trials of {steps:,} steps, about {duration(seconds)} each and {total} in all")
        print(
            f"with {self.workers} workers of {self.threads} threads; about {size * len(trials) / 1e6:,.0f} MB of disk"
        )
        if self.study.adaptive:
            print(f"then the finalists and the baseline with {len(self.study.seed_list())} fresh seeds")

    def text(self, command: str) -> str:
        """What makes the study what it is, as YAML."""
        about = {"study": dataclasses.asdict(self.study), "options": self.common, "threads": self.threads}
        named = {"baseline": None if self.baseline is None else self.baseline.name, "command": command}
        return yaml.safe_dump(about | named, sort_keys=False, allow_unicode=True)


def _parse(args: list[str]) -> tuple[Study, Any, list[str], Path]:
    """The study; the options of the command; those of ``fit``, as they were typed; and the study's config."""
    parser = Parser(prog="regularization sweep", description=Study.__doc__)
    parser.add_argument("--workers", type=int | None, default=None, help="Processes at a time; one a GPU, else one.")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads of a worker; shared out evenly.")
    parser.add_argument("--folder", type=str, default="runs", help="Where the study's folder goes.")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Only list the trials and their cost.")
    parser.add_argument("--fresh", action="store_true", help="Start a new study instead of going on with the last.")
    parser.add_argument("--refit", action="store_true", help="Train the chosen arm on all images and test it once.")
    parser.add_class_arguments(Study)
    fields = [one.name for one in dataclasses.fields(Study)]
    known = {*fields, *(action.dest for action in parser._actions), "config", "c", "h"}
    ours, common = _shared_out(args, known)
    if len(paths := config_paths(ours)) > 1:
        raise Mistake("sweep takes one --config, the study's; what trials share belongs into its base")
    # In place of the file: its keys have dots in them, which a config's may not.
    place = next(iter(paths), Path())
    content = read_config(place) if paths else {}
    if unknown := [key for key in content if key not in fields]:
        raise Mistake(f"{place}: a study has no option {unknown[0]}{nearest(unknown[0], fields)}")
    typed = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in content.items()]
    asked = parser.parse_args([*typed, *_without_config(ours)])
    return Study(**{name: asked[name] for name in fields}), asked, common, place


def _shared_out(args: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Options of the sweep, and the others, which go to ``fit``; each with its value."""
    shared: tuple[list[str], list[str]] = ([], [])
    target = shared[0]
    for arg in args:
        if arg.startswith("-") and not arg[1:2].isdigit():
            name = arg.lstrip("-").split("=")[0].split(".")[0].replace("-", "_")
            target = shared[0] if name in known else shared[1]
        target.append(arg)
    return shared


def _without_config(args: list[str]) -> list[str]:
    named = {place for place, arg in enumerate(args) if arg in ("-c", "--config")}
    both = named | {place + 1 for place in named}
    return [arg for place, arg in enumerate(args) if place not in both and not arg.startswith("--config=")]


def _folder(plan: Plan, root: Path, name: str, fresh: bool) -> Path:
    """The study's folder: the newest of its name, or a new one."""
    existing = sorted((root / name).glob(f"version_*/{STUDY}"), key=lambda path: int(path.parent.name[8:]))
    if existing and not fresh:
        _check_same(existing[-1], plan)
        return existing[-1].parent
    return runs.claim(root, name)


def _check_same(path: Path, plan: Plan) -> None:
    then, now = yaml.safe_load(path.read_text()), yaml.safe_load(plan.text(""))
    for part in ("study", "options", "threads"):
        if then[part] == now[part]:
            continue
        what, before, after = part, then[part], now[part]
        if isinstance(before, dict):
            what = next(key for key in now[part] if before.get(key) != after[key])
            before, after = before.get(what), after[what]
        raise Mistake(
            f"{path.parent} is a study with another {what}: {before}, not {after}.\n"
            "Ask for the same to go on with it, or add --fresh to start another."
        )


def _run(plan: Plan, folder: Path, command: str) -> None:
    runs.write_text(folder / STUDY, plan.text(command))
    print(f"study: {folder}", flush=True)
    assert plan.first is not None
    plan.first.datamodule.prepare_data()
    finalists = plan.arms
    failed: dict[str, str] = {}
    if plan.study.adaptive:
        finalists, failed = _search(plan, folder)
    trials = plan.trials("final", finalists, folder)
    failed |= _train(plan, folder, trials)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    found = results.find([folder / "final"], plan.study.score)
    baseline = plan.baseline.name if plan.baseline and plan.baseline in finalists else None
    first = answer(found, plan.study, baseline)
    _test(first, plan, trials)
    if plan.refit:
        _refit(plan, next(arm for arm in finalists if arm.name == first.chosen.name), folder)
    everything = results.find([folder / "final", folder / "search"], plan.study.score)
    found = [one for one in everything if one.stage == "final"]
    _close(answer(found, plan.study, baseline), everything, plan.study, folder, command)


def _train(plan: Plan, folder: Path, trials: list[Trial], judge: Callable[..., bool] | None = None) -> dict[str, str]:
    table = LiveTable(trials)
    with table.shown() as show:
        return Runner(folder, plan.workers, plan.threads, plan.devices, judge, show).run(trials)


def _search(plan: Plan, folder: Path) -> tuple[list[Arm], dict[str, str]]:
    """Tries the arms, or those that are proposed; returns the finalists, the baseline among them, and failures."""
    arms = list(plan.arms)
    failed: dict[str, str] = {}
    if plan.study.search == "tpe":
        arms = [arm for arm in arms if arm.unregularized]
        proposals = Proposals(plan.study, folder)
        proposed: list[Arm] = []
        while len(proposed) < plan.study.proposals:
            batch = [proposals.next() for _ in range(min(plan.workers, plan.study.proposals - len(proposed)))]
            failed |= _train(plan, folder, plan.trials("search", batch, folder))
            for arm in batch:
                proposals.tell(len(proposed), _score(plan, folder, arm))
                proposed.append(arm)
        arms += {arm.name: arm for arm in proposed}.values()
    trials = plan.trials("search", arms, folder)
    judge = None
    if plan.study.search == "halving":
        assert plan.first is not None
        judge = Halving(plan.first.trainer.max_epochs or 1, [trial for trial in trials if trial.done])
    failed |= _train(plan, folder, trials, judge)
    return _finalists(plan, folder, arms), failed


def _score(plan: Plan, folder: Path, arm: Arm) -> float | None:
    """Mean validation accuracy of an arm in the search; None when it failed or was stopped early."""
    found = [results.read(trial.folder, plan.study.score) for trial in plan.trials("search", [arm], folder)]
    scores = [one.accuracy for one in found if one is not None and not one.pruned]
    return sum(scores) / len(scores) if len(scores) == len(found) else None


def _finalists(plan: Plan, folder: Path, arms: list[Arm]) -> list[Arm]:
    """The best value of each tuned arm, or the best arms; with the baseline, in the order of the arms."""
    scores = {arm.name: score for arm in arms if (score := _score(plan, folder, arm)) is not None}
    if not scores:
        raise Mistake(f"no trial of the search came to its end; see {folder}/search/*/*/log.txt")
    ranked = sorted((arm for arm in arms if arm.name in scores), key=lambda arm: -scores[arm.name])
    if plan.study.arms:
        best: dict[str, Arm] = {}
        for arm in ranked:
            best.setdefault(arm.group, arm)
        chosen = list(best.values())
    else:
        chosen = ranked[: plan.study.finalists]
    if plan.baseline is not None and plan.baseline not in chosen:
        group = [arm for arm in chosen if arm.group == plan.baseline.group]
        plan.baseline = group[0] if group else plan.baseline
        chosen += [] if group else [plan.baseline]
    order = sorted(arms, key=lambda arm: list(arm.values.values())) if plan.study.axis else arms
    return [arm for arm in order if arm in chosen]


def _test(found: Answer, plan: Plan, trials: list[Trial]) -> None:
    """Scores the test images, once: with the chosen arm and the baseline."""
    named = {found.chosen.name, found.baseline.name if found.baseline else found.chosen.name}
    torch.set_num_threads(plan.threads)
    for trial in trials:
        result = results.read(trial.folder, plan.study.score)
        if trial.arm.name in named and result is not None and result.test_accuracy is None:
            with contextlib.redirect_stdout(io.StringIO()):
                RegularizationCLI(["test", f"--ckpt_path={plan.study.score}", *trial.args[1:]], run=trial.folder)


def _refit(plan: Plan, arm: Arm, folder: Path) -> None:
    """Trains the chosen arm once more, on training and validation images together, and tests that network once."""
    seed = plan.study.seed_list()[0]
    everything = ["--data.val_size=0", "--trainer.limit_val_batches=0"]
    trial = Trial(
        arm, seed, REFIT, ("fit", *plan.common, *arm.args, f"--seed_everything={seed}", *everything), folder / REFIT
    )
    failed = _train(plan, folder, [trial])
    if failed:
        raise Mistake(f"the refit failed: {failed[trial.name]}")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        RegularizationCLI(["test", "--ckpt_path=last", *trial.args[1:]], run=trial.folder)
    print(f"refit on all training images: {said.getvalue().strip()}")


def _is_refit(result: results.Result) -> bool:
    return result.stage == REFIT


def _close(found: Answer, everything: list[results.Result], study: Study, folder: Path, command: str) -> None:
    results.write_table(everything, folder / "results.csv")
    page = write_report(found, everything, study, folder, command)
    for remark in found.remarks:
        print(remark)
    print(f"{found.sentence}\n{page}", file=sys.stdout, flush=True)
