"""The commands ``sweep`` and ``report``."""

import dataclasses
import json
import shlex
from argparse import SUPPRESS
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.errors import UserError, did_you_mean
from regularization.runs import directory, distributed
from regularization.study import config as study_config
from regularization.study.conclusion import Conclusion
from regularization.study.config import Study
from regularization.study.pipeline import STUDY, run
from regularization.study.plan import Plan
from regularization.training import arguments
from regularization.training.configs import find_config, read_config, split_args
from regularization.training.help import actions_of
from regularization.training.parser import Parser


def sweep(args: list[str]) -> Conclusion | None:
    """Runs a study from its config to its report, or goes on with one; its answer, None when it is only described."""
    if any(arg.partition("=")[0] == "--storage" for arg in args):
        # Started on several machines by srun or torchrun, each is a coordinator for itself.
        distributed.forget_launcher()
    study, asked, common, place = _parse(args)
    study_config.check_study(study)
    arms = study_config.build_arms(study, place)
    bases = [study.base] if isinstance(study.base, str) else study.base
    configs = [word for name in bases for word in ("--config", str(find_config(name, place)))]
    common = [*configs, *study_config.to_cli_args(study.options), *common]
    plan = Plan(study, arms, study_config.find_baseline(study, arms), common, asked)
    plan.check()
    if asked.dry_run:
        plan.describe()
        return None
    name = directory.run_name([place])
    if plan.storage is None:
        folder = _folder(plan, Path(asked.folder), name, asked.fresh)
    else:
        folder = _shared_folder(plan, Path(asked.folder), name)
    # What is kept may be read by others, and a password is not for them.
    shown = args if plan.storage is None else [arg.replace(asked.storage, plan.storage.shown) for arg in args]
    with directory.exclusive_lock(folder) if plan.storage is None else nullcontext():
        try:
            return run(plan, folder, " ".join(map(shlex.quote, ["python", "-m", "regularization", "sweep", *shown])))
        except RunInterrupted as stopped:
            print(f"stopped by {stopped}; the same command goes on\n{folder}")
            raise SystemExit(128 + stopped.number) from None


def make_parser() -> Parser:
    """The options of ``sweep``, those of its study among them."""
    about = (Study.__doc__ or "").partition("Args:")[0]
    usage = "regularization sweep --config STUDY [options] [options of fit]"
    parser = Parser(prog="regularization sweep", usage=usage, description=about)
    # Read before the others are parsed: its keys have dots in them, which those of a parser's config may not.
    study = "The study: a file, or the name of one that comes with the program, such as sweeps/quickstart."
    parser.add_argument("-c", "--config", dest="study", metavar="FILE", default=SUPPRESS, help=study)
    parser.add_argument("--workers", type=int | None, default=None, help="Trials at a time; one a GPU, else one.")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads of a worker; shared out evenly.")
    ray = "Run trials on the Ray cluster with its head at this host:port, or auto; see docs/cluster.md."
    parser.add_argument("--ray", type=str | None, default=None, metavar="ADDRESS", help=ray)
    parser.add_argument(
        "--gpus", type=float | None, default=None, help="GPUs of a trial on Ray; a fraction shares one."
    )
    storage = "Share the study with the same command on other machines, through this database: postgresql://…"
    parser.add_argument("--storage", type=str | None, default=None, metavar="URL", help=storage)
    parser.add_argument("--folder", type=str, default="runs", help="Where the study's folder goes.")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Only list the trials and their cost.")
    parser.add_argument("--fresh", action="store_true", help="Start a new study instead of going on with the last.")
    parser.add_argument("--refit", action="store_true", help="Train the chosen arm on all images and test it once.")
    # In a group of ours: the title of its own would be the description once more.
    parser.add_argument_group("the study, in its config or here").add_class_arguments(Study, as_group=False)
    return parser


def _parse(args: list[str]) -> tuple[Study, Any, list[str], Path]:
    """The study; the options of the command; those of ``fit``, as they were typed; and the study's config."""
    parser = make_parser()
    fields = [one.name for one in dataclasses.fields(Study)]
    known = {*fields, *(action.dest for action in actions_of(parser)), "config", "c", "h"}
    ours, common = _shared_out(args, known)
    _check_names(common, sorted(known))
    paths, ours = split_args(ours)
    if len(paths) > 1:
        raise UserError("sweep takes one --config, the study's; what trials share belongs into its base")
    place = next(iter(paths), Path())
    content = read_config(place) if paths else {}
    if unknown := [key for key in content if key not in fields]:
        raise UserError(f"{place}: a study has no option {unknown[0]}{did_you_mean(unknown[0], fields)}")
    typed = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in content.items()]
    asked = parser.parse_args([*typed, *ours])
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


def _check_names(common: list[str], known: list[str]) -> None:
    """What neither ``fit`` has nor the sweep was more likely meant for the sweep: its options have no dots."""
    names = [arg.split("=")[0] for arg in common if arg.startswith("--")]
    if undotted := [name for name in names if "." not in name]:
        options = {option for action in actions_of(arguments.make_parser("fit")) for option in action.option_strings}
        for name in undotted:
            if name not in options:
                raise UserError(f"unknown argument {name[2:]}{did_you_mean(name[2:], known)}")


def _folder(plan: Plan, root: Path, name: str, fresh: bool) -> Path:
    """The study's folder: the newest of its name, or a new one."""
    existing = sorted((root / name).glob(f"version_*/{STUDY}"), key=lambda path: int(path.parent.name[8:]))
    if existing and not fresh:
        _check_same(existing[-1], plan)
        return existing[-1].parent
    return directory.create_run_dir(root, name)


def _shared_folder(plan: Plan, root: Path, name: str) -> Path:
    """The newest of its name, or the first: whoever comes first or at the same time gets the same one."""
    numbers = [int(path.name[8:]) for path in (root / name).glob("version_*") if path.name[8:].isdigit()]
    newest = max(numbers, default=0)
    folder = root / name / f"version_{newest}"
    # Looked at in this order: another coordinator may be about to write it.
    if folder.is_dir() and any(folder.glob("[!.]*")) and not (folder / STUDY).is_file():
        folder = root / name / f"version_{newest + 1}"  # that was a run of another command
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't create {folder}: {error.strerror}. Name another --folder.") from error
    with plan.alone(folder):
        if (folder / STUDY).is_file():
            _check_same(folder / STUDY, plan)
        else:
            directory.write_text(folder / STUDY, plan.text(""))
    return folder


def _check_same(path: Path, plan: Plan) -> None:
    then, now = yaml.safe_load(path.read_text()), yaml.safe_load(plan.text(""))
    for part in ("study", "options", "threads", "configs"):
        if then[part] == now[part]:
            continue
        if part == "configs":
            changed = [name for name in now[part] if then[part].get(name) != now[part][name]]
            raise UserError(
                f"{path.parent} is a study with another content of {', '.join(changed)}.\n"
                "Put it back to go on with it, or add --fresh to start another."
            )
        what, before, after = part, then[part], now[part]
        if isinstance(before, dict):
            what = next(key for key in now[part] if before.get(key) != after[key])
            before, after = before.get(what), after[what]
        raise UserError(
            f"{path.parent} is a study with another {what}: {before}, not {after}.\n"
            "Ask for the same to go on with it, or add --fresh to start another."
        )
