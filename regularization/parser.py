"""LightningCLI's parser with plain errors, and the checks of config files that come before it."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

import regularization
from regularization.mistakes import Mistake, plain


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose errors are one plain line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # As Python 3.14 has it: until then argparse takes "-1e-4" for an option, not for the number it is.
        self._negative_number_matcher = re.compile(r"-(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$", re.IGNORECASE)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the Mistake that ``message`` is about."""
        while ex is not None:
            if isinstance(ex, Mistake):
                raise ex
            ex = ex.__cause__ or ex.__context__  # type: ignore[assignment]
        raise Mistake(plain(message, _option_names(self)))


def config_paths(args: list[str]) -> Iterator[Path]:
    """The config files that ``args`` name, in their order."""
    for place, option in enumerate(args):
        if option in ("-c", "--config") and place + 1 < len(args):
            yield Path(args[place + 1])
        elif option.startswith("--config="):
            yield Path(option.removeprefix("--config="))


def check_config(path: Path) -> None:
    """Checks that ``path`` is a file of YAML options.

    Raises:
        Mistake: When it is not.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Mistake(f"can't read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Mistake(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise Mistake(f"{path} has no options in it: a config is lines of 'name: value'")


def _option_names(parser: LightningArgumentParser) -> list[str]:
    """What a mistyped name may have meant: options, the last part of options inside our classes, and class names."""
    commands = [command for action in parser._actions for command in getattr(action, "_name_parser_map", {}).values()]
    actions = [action for owner in [parser, *commands] for action in owner._actions]
    options = [action.dest for action in actions if not action.dest.endswith(".help")]
    public = [getattr(regularization, name) for name in regularization.__all__ if name[0].isupper()]
    inner = [name for cls in [*public, torch.optim.SGD] for name in _init_arguments(cls)]
    groups = [option.partition(".")[0] for option in options]
    return [*options, *groups, *inner, *regularization.__all__, *torch.optim.__all__]


def _init_arguments(cls: type) -> list[str]:
    return [name for base in cls.__mro__[:-1] for name in inspect.signature(base).parameters]
