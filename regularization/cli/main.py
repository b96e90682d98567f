"""The entry point: chooses the command before anything heavy is imported, so that usage and mistakes come at once."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from regularization import __doc__ as purpose
from regularization import __version__
from regularization.cli.console import configure_logging
from regularization.errors import UserError, did_you_mean, printable_lines

# Command → the module with a function of the same name, and its description in the usage.
COMMANDS = {
    "fit": ("training.command", "train a network from a config, or resume a run"),
    "validate": ("training.command", "evaluate a checkpoint on the validation images"),
    "test": ("training.command", "evaluate a checkpoint on the test images, with a table and plots"),
    "predict": ("cli.predict", "classify images with a trained network"),
    "export": ("cli.export", "write a checkpoint as one ONNX or PyTorch file: uint8 images in, probabilities out"),
    "sweep": ("cli.sweep", "run a study: which regularization helps, and how strong should it be?"),
    "report": ("cli.report", "rebuild the report of a study, or compare any runs"),
    "completion": ("cli.completion", "print a script that completes commands and options in a shell"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command in ``args``, by default ``sys.argv``; a ``UserError`` is printed and exits with code 2."""
    try:
        run(list(sys.argv[1:] if args is None else args))
    except UserError as error:
        print(f"error: {printable_lines(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def run(args: list[str]) -> None:
    """Runs the command that ``args`` begin with; prints the usage if they are empty.

    Raises:
        UserError: If the command is unknown, or its arguments are wrong.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Not every encoding has letters such as λ.
            stream.reconfigure(errors="backslashreplace")
    command, *options = args or ["--help"]
    if command in ("-h", "--help", "help"):
        print(usage())
    elif command in ("-V", "--version"):
        print(__version__)
    elif command not in COMMANDS:
        raise UserError(
            f"there is no command {command}{did_you_mean(command, COMMANDS)}. "
            f"The commands are {', '.join(COMMANDS)}; --help explains them"
        )
    else:
        # PyTorch reads this level when it is imported. At a lower one every process would repeat DDP's messages.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        function = getattr(import_module(f"regularization.{COMMANDS[command][0]}"), command)
        configure_logging()
        function(options)


def usage() -> str:
    """The commands with their descriptions."""
    commands = [f"  {name:<12}{description}" for name, (_, description) in COMMANDS.items()]
    first = "usage: regularization COMMAND [options]      (or python -m regularization COMMAND)"
    last = (
        "Start with regularization fit --config quickstart, then sweep --config sweeps/quickstart.\n"
        "COMMAND --help lists the options of a command; --version prints the version."
    )
    return "\n".join([first, "", str(purpose), "", *commands, "", last])
