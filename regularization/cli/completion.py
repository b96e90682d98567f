"""The command ``completion``: a script, made by shtab, that completes commands, options and values in a shell."""

import re
from argparse import Action, ArgumentParser
from importlib import import_module
from typing import Any

import shtab
from torch.optim import SGD

from regularization.cli.main import COMMANDS
from regularization.data.datamodules import CIFAR10
from regularization.data.image_folder import ImageFolder
from regularization.models.networks import SmallResNet
from regularization.optim.schedules import WarmupDecay
from regularization.training.help import HIDDEN, HelpFormatter, classes, ours, plain_text
from regularization.training.parser import Parser, config_names

# Command → the module and the function that makes its parser; fit, validate and test have LightningCLI's.
PARSERS = {
    "predict": ("cli.predict", "make_parser"),
    "export": ("cli.export", "make_parser"),
    "sweep": ("cli.sweep", "make_parser"),
    "report": ("cli.report", "make_parser"),
    "completion": ("cli.completion", "make_parser"),
}
# Options that no parser has, but the classes that are mostly chosen.
_INNER = (
    ("data", CIFAR10),
    ("data", ImageFolder),
    ("model.network", SmallResNet),
    ("model.optimizer", SGD),
    ("model.lr_scheduler", WarmupDecay),
)
_FOLDERS = ("data.root", "folder", "folders", "trainer.default_root_dir")
# Values that no type tells, or hundreds of classes.
_VALUES = {
    "model.network": ["SmallResNet", "ResNet", "torchvision.models.resnet18", "timm.create_model"],
    "model.mixing": ["torchvision.transforms.v2.MixUp", "torchvision.transforms.v2.CutMix"],
    "trainer.accelerator": ["auto", "cpu", "gpu", "mps"],
}


def completion(args: list[str]) -> None:
    """Prints the script for a shell."""
    print(script(make_parser().parse_args(args).shell))


def make_parser() -> Parser:
    """The parser of ``completion``."""
    about = "Prints a script that completes commands, options and values. Made in seconds, it is read in no time:"
    where = "bash finds it as ~/.local/share/bash-completion/completions/regularization, for instance."
    made = Parser(prog="regularization completion", description=f"{about} {where}")
    made.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="The shell that is to read it.")
    return made


def script(shell: str) -> str:
    """The script. All that it has to know is written into it: it asks no Python, and so takes no time."""
    whole = ArgumentParser(prog="regularization")
    whole.add_argument("-V", "--version", action="store_true", help="Tell the version.")
    commands = whole.add_subparsers()
    for command, parsers in _parsers().items():
        one = commands.add_parser(command, help=COMMANDS[command][1])
        known = {"-h", "--help"}
        for action in (action for source in parsers for action in source._actions):
            names = [name for name in action.option_strings if not name.endswith("+")]
            if known.isdisjoint(names) and action.dest not in HIDDEN:
                known.update(names)
                _copy(action, names, one, command)
    text: str = shtab.complete(whole, shell)
    return text


def _parsers() -> dict[str, list[Any]]:
    """For each command the parsers whose options it takes."""
    from regularization.training.command import parser_of

    inner = []
    for key, cls in _INNER:
        inner.append(Parser())
        inner[-1].add_class_arguments(cls, key, skip={"params", "optimizer"}, fail_untyped=False)
    made = {command: [parser_of(command), *inner] for command in ("fit", "validate", "test")}
    for command, (module, function) in PARSERS.items():
        made[command] = [getattr(import_module(f"regularization.{module}"), function)()]
    made["sweep"] += made["fit"]
    return made


def _copy(action: Action, names: list[str], to: ArgumentParser, command: str) -> None:
    """Adds the option to a parser of argparse's: of jsonargparse's, every class's options would become its own."""
    about = re.split(r"(?<=[.:;]) ", plain_text(action.help or ""))[0].replace("%", "%%")
    if action.nargs == 0 or action.dest == "print_config":
        to.add_argument(*names, action="store_true", help=about)
        return
    # A config can be given several times: without this zsh would offer it once.
    how = "append" if action.dest == "config" else "store"
    copied = [to.add_argument(*names, action=how, help=about)] if names else []
    if not names or action.nargs == "+":
        # Several values of an option, too: behind the first, shtab would offer no other option.
        copied.append(to.add_argument(action.dest, nargs=action.nargs, help=about))
    for one in copied:
        if complete := _files(action, command):
            one.complete = complete  # type: ignore[attr-defined]
        else:
            one.choices = _choices(action) or None


def _files(action: Action, command: str) -> Any:
    """How files are completed, with names before them; None for what is no file."""
    if action.dest in ("config", "study"):
        studies = command == "sweep"
        names = [name for name in config_names() if name.startswith("sweeps/") == studies]
        return _or_files("study" if studies else "config", names, "yaml")
    if action.dest == "ckpt_path" and command in ("fit", "validate", "test"):
        return _or_files("checkpoint", ["best", "last"], "ckpt")
    if action.dest in _FOLDERS:
        return shtab.DIRECTORY
    return shtab.FILE if HelpFormatter("").kind_of(action) == "PATH" else None


def _or_files(what: str, names: list[str], ending: str) -> dict[str, Any]:
    """Functions of the shells that complete one of ``names``, or a file with the ``ending``; tcsh has none for both."""
    # shtab takes functions with _file in their names for such as complete paths.
    function, listed = f"_regularization_{what}_file", " ".join(names)
    bash = f"""{function}() {{
  compgen -W "{listed}" -- "$1"
  compgen -f -X '!*.{ending}' -- "$1"
  compgen -d -- "$1"
}}"""
    zsh = f"""{function}() {{
  _alternative '{what}:{what}:({listed})' 'file:file:_files -g "*.{ending}"'
}}"""
    return {"bash": function, "zsh": function, "tcsh": f"f:*.{ending}", "preamble": {"bash": bash, "zsh": zsh}}


def _choices(action: Action) -> list[str]:
    """The values that an option takes, as far as they can be listed."""
    if action.choices:
        return [str(choice) for choice in action.choices]
    if action.dest in _VALUES:
        return _VALUES[action.dest]
    if listed := re.fullmatch(r"\{(.*)\}", str(action.metavar)):
        return listed[1].split(",")
    paths = classes(action) if HelpFormatter("").kind_of(action) == "CLASS" else []
    return [*ours(paths), *(path for path in paths if not path.startswith("regularization."))]
