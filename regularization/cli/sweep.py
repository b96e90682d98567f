"""The commands ``sweep`` and ``report``."""

import dataclasses
import json
import os
import shlex
from argparse import SUPPRESS
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.errors import UserError, did_you_mean
from regularization.runs import directory, distributed
from regularization.study import config as study_config
from regularization.study.closing import STUDY
from regularization.study.conclusion import Conclusion
from regularization.study.config import Study
from regularization.study.dry_run import describe
from regularization.study.execution.storage import JOURNAL, open_database, open_journal, without_password
from regularization.study.extension import check_extends, study_record
from regularization.study.pipeline import Pipeline
from regularization.study.plan import Plan
from regularization.training.command import parser_of
from regularization.training.parser import Parser, config_paths, find_config, read_config, with_found


def sweep(args: list[str]) -> Conclusion | None:
    """Runs a study from its config to its report, or goes on with one; its answer, None when it is only described."""
    with _process_unchanged():
        # Started on several machines by srun or torchrun, each is a coordinator for itself.
        distributed.forget_launcher()
        study, options, common, config = _parse(args)
        study_config.check_study(study)
        arms = study_config.build_arms(study, config)
        bases = [study.base] if isinstance(study.base, str) else study.base
        configs = [word for name in bases for word in ("--config", str(find_config(name, config)))]
        common = [*configs, *study_config.to_cli_args(study.options), *common]
        plan = Plan(study, arms, study_config.find_baseline(study, arms), common, options)
        plan.check()
        if options.dry_run:
            describe(plan)
            return None
        # What is kept may be read by others, and a password is not for them.
        shown = (
            [arg.replace(options.storage, without_password(options.storage)) for arg in args]
            if options.storage
            else args
        )
        return _run(plan, directory.run_name([config]), shlex.join(["python", "-m", "regularization", "sweep", *shown]))


def _run(plan: Plan, name: str, command: str) -> Conclusion:
    database = open_database(plan.options.storage) if plan.options.storage else None
    executor = plan.executor()
    try:
        folder = _folder(plan, Path(plan.options.folder), name)
        storage = database or open_journal(folder)
        # In a database there may be other studies; the journal's is read by people.
        title = str(folder.resolve()) if database else f"{folder.parent.name}/{folder.name}"
        print(f"study: {folder}\n{_dashboard(folder, plan.options.storage)}", flush=True)
        return Pipeline(plan, folder, executor, storage, title).run(command)
    except RunInterrupted as stopped:
        print(f"stopped by {stopped}; the same command goes on\n{folder}")
        raise SystemExit(128 + stopped.number) from None
    finally:
        executor.close()


@contextmanager
def _process_unchanged() -> Iterator[None]:
    """Leaves environment and threads as they were: called from Python, the process is the user's."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    verbosity = optuna.logging.get_verbosity()
    # A trial that failed is reported by us.
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        optuna.logging.set_verbosity(verbosity)


def _dashboard(folder: Path, url: str | None) -> str:
    """How to watch the study in a browser."""
    return f"watch it: optuna-dashboard {shlex.quote(without_password(url) if url else str(folder / JOURNAL))}"


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
    again = "Run the trials again that failed."
    parser.add_argument("--retry_failed", "--retry-failed", action="store_true", help=again)
    parser.add_argument("--refit", action="store_true", help="Train the chosen arm on all images and test it once.")
    # In a group of ours: the title of its own would be the description once more.
    parser.add_argument_group("the study, in its config or here").add_class_arguments(Study, as_group=False)
    return parser


def _parse(args: list[str]) -> tuple[Study, Any, list[str], Path]:
    """The study; the options of the command; those of ``fit``, as they were typed; and the study's config."""
    parser = make_parser()
    fields = [one.name for one in dataclasses.fields(Study)]
    known = {*fields, *(action.dest for action in parser._actions), "config", "c", "h"}
    ours, common = _shared_out(args, known)
    _check_names(common, sorted(known))
    if len(config_paths(ours)) > 1:
        raise UserError("sweep takes one --config, the study's; what trials share belongs into its base")
    paths = config_paths(with_found(ours))
    place = next(iter(paths), Path())
    content = read_config(place) if paths else {}
    if unknown := [key for key in content if key not in fields]:
        raise UserError(f"{place}: a study has no option {unknown[0]}{did_you_mean(unknown[0], fields)}")
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


def _check_names(common: list[str], known: list[str]) -> None:
    """What neither ``fit`` has nor the sweep was more likely meant for the sweep: its options have no dots."""
    names = [arg.split("=")[0] for arg in common if arg.startswith("--")]
    if undotted := [name for name in names if "." not in name]:
        options = {option for action in parser_of("fit")._actions for option in action.option_strings}
        for name in undotted:
            if name not in options:
                raise UserError(f"unknown argument {name[2:]}{did_you_mean(name[2:], known)}")


def _without_config(args: list[str]) -> list[str]:
    named = {place for place, arg in enumerate(args) if arg in ("-c", "--config")}
    both = named | {place + 1 for place in named}
    return [arg for place, arg in enumerate(args) if place not in both and not arg.startswith("--config=")]


def _folder(plan: Plan, root: Path, name: str) -> Path:
    """The study's folder, the newest of its name or a new one: for all coordinators that are started alike the same."""
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't create {root / name}: {error.strerror}. Name another --folder.") from error
    with directory.exclusive_lock(root / name):
        existing = sorted((root / name).glob(f"version_*/{STUDY}"), key=lambda path: int(path.parent.name[8:]))
        if existing and not plan.options.fresh:
            check_extends(existing[-1], plan)
            return existing[-1].parent
        folder = directory.create_run_dir(root, name)
        directory.write_text(folder / STUDY, study_record(plan, ""))
        return folder
