"""The commands: chosen before anything heavy is imported, so that help and most mistakes take no time."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from regularization import __doc__ as purpose
from regularization import __version__
from regularization.cli.console import configure_logging
from regularization.errors import UserError, did_you_mean

# Command → the module that has a function of its name, and a line for people.
COMMANDS = {
    "fit": ("training.command", "train a network by a config, or go on with a run"),
    "validate": ("training.command", "score a checkpoint on the held-out images"),
    "test": ("training.command", "score a checkpoint on the test images, with tables and pictures"),
    "predict": ("cli.predict", "name what is on pictures"),
    "export": ("cli.export", "write a checkpoint as one ONNX or PyTorch file: uint8 images in, probabilities out"),
    "sweep": ("cli.sweep", "train the arms of a study: which regularization helps, and how strong it should be"),
    "report": ("cli.report", "make a study's report again, or compare any runs"),
    "completion": ("cli.completion", "print the script that completes commands and options in a shell"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command in ``args``, by default the process's own; a mistake prints its lines and exits with 2."""
    try:
        run(list(sys.argv[1:] if args is None else args))
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def run(words: list[str]) -> None:
    """Runs the command that ``words`` begin with.

    Raises:
        UserError: When there is no such command, or it was used wrongly.
    """
    command, args = (words[0], words[1:]) if words else ("", [])
    if command in ("-h", "--help", "help", "-V", "--version"):
        print(__version__ if "V" in command or "version" in command else usage())
        return
    if command not in COMMANDS:
        what = f"there is no command {command}{did_you_mean(command, COMMANDS)}" if command else "name a command"
        raise UserError(f"{what}: {', '.join(COMMANDS)} (--help explains them)")
    # PyTorch's log, of which it reads the level when it is imported: each process would repeat DDP's remarks.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    function = getattr(import_module(f"regularization.{COMMANDS[command][0]}"), command)
    # Behind the import: Lightning sets up its announcements when it is imported.
    configure_logging()
    function(args)


def usage() -> str:
    """What the commands are for, one a line."""
    lines = [f"  {name:<12}{about}" for name, (_, about) in COMMANDS.items()]
    first = "usage: regularization COMMAND [options]      (or python -m regularization COMMAND)"
    last = "COMMAND --help explains its options; --version tells the version."
    return "\n".join([first, "", str(purpose), "", *lines, "", last])
