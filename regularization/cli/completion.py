"""The command ``completion``: a script, made by shtab, that completes commands, options and values in a shell.

jsonargparse can make such scripts too, but it adds the options of every class that an option accepts: for ``fit`` that
takes more than five minutes.
"""

import re
from argparse import SUPPRESS, Action, ArgumentParser
from importlib import import_module
from typing import Any

import shtab

from regularization.cli.main import COMMANDS
from regularization.models.objective import MODES
from regularization.training.configs import config_names
from regularization.training.help import HIDDEN, actions_of, class_paths, own_names, plain_text, value_name
from regularization.training.parser import Parser

# Commands whose parsers are made by the function make_parser of their module.
_OWN_PARSERS = ("predict", "export", "sweep", "report", "completion")
# Option → the class whose arguments are offered as its nested options, such as --model.optimizer.lr.
_NESTED = (
    ("data", "regularization.CIFAR10"),
    ("data", "regularization.ImageFolder"),
    ("model.network", "regularization.SmallResNet"),
    ("model.optimizer", "torch.optim.SGD"),
    ("model.lr_scheduler", "regularization.WarmupDecay"),
)
_FOLDER_OPTIONS = ("data.root", "folder", "folders", "trainer.default_root_dir")
# Values to offer for options whose type lists no values, or hundreds of classes.
_VALUES = {
    "model.decay": ["all", "weights"],  # a list is allowed too, so the parser has no choices
    "model.network": ["SmallResNet", "ResNet", "torchvision.models.resnet18", "timm.create_model"],
    "model.mixing": ["torchvision.transforms.v2.MixUp", "torchvision.transforms.v2.CutMix"],
    "trainer.accelerator": ["auto", "cpu", "gpu", "mps"],
    "objective": [name for name, mode in MODES.items() if mode and name.startswith("val_")],
}


def completion(args: list[str]) -> None:
    """Prints the script for a shell."""
    print(script(make_parser().parse_args(args).shell))


def make_parser() -> Parser:
    """The parser of ``completion``."""
    description = (
        "Prints a script that completes commands, options and values. Bash finds it, for instance, as "
        "~/.local/share/bash-completion/completions/regularization."
    )
    parser = Parser(prog="regularization completion", description=description)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="The shell that reads the script.")
    return parser


def script(shell: str) -> str:
    """The script. It contains all names and values and starts no Python, so that completing takes no time."""
    program = ArgumentParser(prog="regularization")
    program.add_argument("-V", "--version", action="store_true", help="Print the version.")
    subparsers = program.add_subparsers()
    for command, parsers in _parsers().items():
        subparser = subparsers.add_parser(command, help=COMMANDS[command][1])
        known = {"-h", "--help"}
        for action in (action for parser in parsers for action in actions_of(parser)):
            names = [name for name in action.option_strings if not name.endswith("+")]
            if known.isdisjoint(names) and action.dest not in HIDDEN and action.help != SUPPRESS:
                known.update(names)
                _copy(action, names, subparser, command)
    text: str = shtab.complete(program, shell)
    return text


def _parsers() -> dict[str, list[ArgumentParser]]:
    """For each command, the parsers whose options it takes."""
    from regularization.training import arguments

    nested: list[ArgumentParser] = []
    for option, path in _NESTED:
        module, _, name = path.rpartition(".")
        parser = Parser()
        cls = getattr(import_module(module), name)
        parser.add_class_arguments(cls, option, skip={"params", "optimizer"}, fail_untyped=False)
        nested.append(parser)
    parsers: dict[str, list[ArgumentParser]] = {
        command: [arguments.make_parser(command), *nested] for command in arguments.DESCRIPTIONS
    }
    for command in _OWN_PARSERS:
        parsers[command] = [import_module(f"regularization.{COMMANDS[command][0]}").make_parser()]
    parsers["sweep"] += parsers["fit"]
    return parsers


def _copy(action: Action, names: list[str], parser: ArgumentParser, command: str) -> None:
    """Adds the option to one of argparse's parsers."""
    help_text = re.split(r"(?<=[.:;]) ", plain_text(action.help or ""))[0].replace("%", "%%")
    if action.nargs == 0 or action.dest == "print_config":
        parser.add_argument(*names, action="store_true", help=help_text)
        return
    # A config can be given several times: without append, zsh would offer it once.
    how = "append" if action.dest == "config" else "store"
    copies = [parser.add_argument(*names, action=how, help=help_text)] if names else []
    if not names or action.nargs == "+":
        # Added as a positional argument: after an option with several values, shtab would offer no other option.
        copies.append(parser.add_argument(action.dest, nargs=action.nargs, help=help_text))
    for copy in copies:
        if complete := _file_completion(action, command):
            copy.complete = complete  # type: ignore[attr-defined]
        else:
            copy.choices = _choices(action) or None


def _file_completion(action: Action, command: str) -> Any:
    """How shtab completes an option that takes a file, or one of several names or a file; None for other options."""
    if action.dest in ("config", "study"):
        is_study = command == "sweep"
        names = [name for name in config_names() if name.startswith("sweeps/") == is_study]
        return _names_or_files("study" if is_study else "config", names, "yaml")
    if action.dest == "ckpt_path" and command in ("fit", "validate", "test"):
        return _names_or_files("checkpoint", ["best", "last"], "ckpt")
    if action.dest in _FOLDER_OPTIONS:
        return shtab.DIRECTORY
    return shtab.FILE if value_name(action) == "PATH" else None


def _names_or_files(kind: str, names: list[str], suffix: str) -> dict[str, Any]:
    """Shell functions that complete one of ``names`` or a file with the ``suffix``; tcsh completes files only."""
    # shtab treats functions with _file in their names as those that complete paths.
    function, words = f"_regularization_{kind}_file", " ".join(names)
    bash = f"""{function}() {{
  compgen -W "{words}" -- "$1"
  compgen -f -X '!*.{suffix}' -- "$1"
  compgen -d -- "$1"
}}"""
    zsh = f"""{function}() {{
  _alternative '{kind}:{kind}:({words})' 'file:file:_files -g "*.{suffix}"'
}}"""
    return {"bash": function, "zsh": function, "tcsh": f"f:*.{suffix}", "preamble": {"bash": bash, "zsh": zsh}}


def _choices(action: Action) -> list[str]:
    """The values of an option, as far as they can be listed."""
    if action.choices:
        return [str(choice) for choice in action.choices]
    if action.dest in _VALUES:
        return _VALUES[action.dest]
    if listed := re.fullmatch(r"\{(.*)\}", str(action.metavar)):
        return listed[1].split(",")
    paths = class_paths(action) if value_name(action) == "CLASS" else []
    return [*own_names(paths), *(path for path in paths if not path.startswith("regularization."))]
