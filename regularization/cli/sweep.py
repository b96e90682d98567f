"""The command ``sweep``."""

import dataclasses
import os
from argparse import SUPPRESS
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regularization.cli.console import configure_logging
from regularization.errors import UserError, did_you_mean
from regularization.models.objective import Objective
from regularization.study.config import Study, to_cli_args
from regularization.training.configs import read_config, split_args
from regularization.training.help import actions_of
from regularization.training.parser import Parser

if TYPE_CHECKING:
    from regularization.study.report.answer import StudyAnswer


_OPTIONS: tuple[tuple[str, Any, Any, str, str], ...] = (
    ("workers", int | None, None, "INT", "Trials at a time; by default one per GPU, or one."),
    ("threads", int | None, None, "INT", "CPU threads per trial; by default the cores are divided among the workers."),
    ("ray", str | None, None, "ADDRESS", "Run trials on the Ray cluster with its head at this host:port, or auto."),
    ("gpus", float | None, None, "NUMBER", "GPUs per trial on Ray; a fraction shares a GPU."),
    ("storage", str | None, None, "URL", "Keep the Optuna study in this database: postgresql://…"),
    ("trials", int | None, None, "INT", "With until: decided, the largest number of trials."),
    ("hours", float | None, None, "NUMBER", "With until: decided, start no trial after this many hours."),
    ("folder", str, "runs", "FOLDER", "Where the study's folder is created."),
)
_SWITCHES = (
    ("dry_run", "Only list the trials and their cost."),
    ("fresh", "Start a new study instead of continuing the latest one."),
    ("retry_failed", "Run the failed trials again."),
    ("refit", "Train the recommended arm on training and validation images, and test it once."),
)


def sweep(args: list[str]) -> "StudyAnswer | None":
    """Runs a study from its config to its report, or continues one; returns its conclusion, or None after a dry run."""
    study, options, common, config = _parse(args)
    from regularization.runs import distributed
    from regularization.study.sweep import run_sweep
    from regularization.training.output import independent_of_readers

    # Called here because Lightning sets its log levels when it is imported, which only the imports above have done.
    configure_logging()

    # If srun or torchrun has started the sweep on several machines, each process is a coordinator of its own.
    distributed.forget_launcher()
    with independent_of_readers():
        return run_sweep(study, options, common, config, args)


def make_parser() -> Parser:
    """The options of ``sweep``, those of its study among them."""
    description = (Study.__doc__ or "").partition("Args:")[0]
    usage = "regularization sweep --config STUDY [options] [options of fit]"
    parser = Parser(prog="regularization sweep", usage=usage, description=description)
    # The study's config is read separately: its keys contain dots, which a parser's own config must not contain.
    config = "The study: a file, or the name of a study that comes with the program, such as sweeps/quickstart."
    parser.add_argument("-c", "--config", dest="study", metavar="FILE", default=SUPPRESS, help=config)
    for name, type_, default, metavar, text in _OPTIONS:
        parser.add_argument(f"--{name}", type=type_, default=default, metavar=metavar, help=text)
    for name, text in _SWITCHES:
        spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
        parser.add_argument(*spellings, action="store_true", help=text)
    # A group, because jsonargparse would repeat the description as the title of its own group.
    parser.add_argument_group("the study, in its config or here").add_class_arguments(Study, as_group=False)
    return parser


def _parse(args: list[str]) -> tuple[Study, Any, list[str], Path]:
    """The study, the options of ``sweep``, those of ``fit`` as they were typed, and the study's config file."""
    parser = make_parser()
    fields = [field.name for field in dataclasses.fields(Study)]
    known = {*fields, *(action.dest for action in actions_of(parser)), "config", "c", "h"}
    own_args, fit_args = _split_by_command(args, known)
    _check_names(fit_args, sorted(known))
    if sum(word in ("-c", "--config") or word.startswith("--config=") for word in own_args) > 1:
        raise UserError("sweep takes one --config, the study's; options that trials share belong in its base")
    paths, own_args = split_args(own_args)
    config = next(iter(paths), Path())
    content = read_config(config) if paths else {}
    if unknown := [key for key in content if key not in fields]:
        raise UserError(f"{config}: a study has no option {unknown[0]}{did_you_mean(unknown[0], fields)}")
    words = list(to_cli_args(content))
    options = parser.parse_args([*words, *own_args])
    options.folder = os.path.expanduser(options.folder)
    study = Study(**{name: options[name] for name in fields})
    given = {word.partition("=")[0] for word in [*words, *own_args]}
    if "--resolution" not in given and not (objective := Objective.parse(study.objective)).is_known:
        raise UserError(
            f"objective: {study.objective} needs resolution, the smallest difference in {objective.metric} that "
            "matters, in hundredths: 1 stands for 0.01"
        )
    return study, options, fit_args, config


def _split_by_command(args: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """The options of ``sweep``, and all others, which are those of ``fit``; each with its value."""
    own_args: list[str] = []
    fit_args: list[str] = []
    target = own_args
    for arg in args:
        if arg.startswith("-") and not arg[1:2].isdigit():
            name = arg.lstrip("-").split("=")[0].split(".")[0].replace("-", "_")
            target = own_args if name in known else fit_args
        target.append(arg)
    return own_args, fit_args


def _check_names(fit_args: list[str], known: list[str]) -> None:
    """Rejects options that neither command has. Without a dot, an option was probably meant for ``sweep``."""
    names = [arg.split("=")[0] for arg in fit_args if arg.startswith("--")]
    if undotted := [name for name in names if "." not in name]:
        from regularization.training.arguments import make_parser as make_fit_parser

        options = {option for action in actions_of(make_fit_parser("fit")) for option in action.option_strings}
        for name in undotted:
            if name not in options:
                raise UserError(f"unknown argument {name[2:]}{did_you_mean(name[2:], known)}")
