"""The command ``sweep``."""

import dataclasses
import json
from argparse import SUPPRESS
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regularization.errors import UserError, did_you_mean
from regularization.study.config import Study
from regularization.training.configs import read_config, split_args
from regularization.training.help import actions_of
from regularization.training.parser import Parser

if TYPE_CHECKING:
    from regularization.study.conclusion import Conclusion


def sweep(args: list[str]) -> "Conclusion | None":
    """Runs a study from its config to its report, or continues one; its conclusion, None after a dry run."""
    study, options, common, config = _parse(args)
    from regularization.runs import distributed
    from regularization.study.sweep import run_sweep

    # Started on several machines by srun or torchrun, each process is a coordinator of its own.
    distributed.forget_launcher()
    return run_sweep(study, options, common, config, args)


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
    words = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in content.items()]
    options = parser.parse_args([*words, *own_args])
    return Study(**{name: options[name] for name in fields}), options, fit_args, config


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
