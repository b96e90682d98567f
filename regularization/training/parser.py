"""LightningCLI's parser with plain errors, and the checks of config files that come before it."""

import copy
import errno
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace, get_loader
from lightning.pytorch.cli import LightningArgumentParser

import regularization
from regularization.data.datamodules import CIFAR10, ImageData
from regularization.errors import UserError, find_user_error, suggest, translate_error
from regularization.runs.safe_loading import with_current_paths
from regularization.training.help import HelpFormatter

Config = dict[str, Any]


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose errors are one plain line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Not by an abbreviation: --conf would be taken, but not looked into beforehand as --config is.
        ours = {"prog": "regularization", "formatter_class": HelpFormatter, "allow_abbrev": False}
        super().__init__(*args, **{**ours, **kwargs})
        # As Python 3.14 has it: until then argparse takes "-1e-4" for an option, not for the number it is.
        self._negative_number_matcher = re.compile(r"-(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?$", re.IGNORECASE)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the UserError that ``message`` is about."""
        raise find_user_error(ex) or UserError(translate_error(message, _option_names(self)))


def config_paths(args: list[str]) -> list[Path]:
    """The config files that ``args`` name, in their order."""
    return [Path(args[place].removeprefix("--config=")) for place in _config_places(args)]


def with_found(args: list[str]) -> list[str]:
    """``args`` with the files in place of the configs that they name.

    Raises:
        UserError: When one is not there.
    """
    found = list(args)
    for place in _config_places(args):
        option = "--config=" if args[place].startswith("--config=") else ""
        found[place] = f"{option}{find_config(args[place].removeprefix(option))}"
    return found


def with_combined(args: list[str], configs: Sequence[Config]) -> list[str]:
    """``args`` with ``configs`` in place of the files they name, and their dicts by name combined behind the last.

    jsonargparse replaces a dict by that of a later config; so no two overlays could both add a penalty.
    """
    combined: Config = {}
    named = list(args)
    for place, config in zip(_config_places(args), configs, strict=True):
        _check_dicts(config)
        model = dict(config.get("model") or {})
        _merge(combined, {"model": {"penalties": model.pop("penalties", None) or {}}})
        _merge(combined, {"callbacks": config.get("callbacks") or {}})
        rest = {key: value for key, value in config.items() if key != "callbacks"} | {"model": model}
        named[place] = ("--config=" if args[place].startswith("--config=") else "") + as_text(rest)
    if not combined or not (combined["model"]["penalties"] or combined["callbacks"]):
        return args
    end = _config_places(args)[-1] + 1
    return [*named[:end], "--config", as_text(combined), *named[end:]]


def _check_dicts(config: Config) -> None:
    model = config.get("model") or {}
    if not isinstance(model, dict):
        raise UserError(f"model: must hold options such as network and optimizer, not {model!r}")
    for name, value in {"model.penalties": model.get("penalties"), "callbacks": config.get("callbacks")}.items():
        if not isinstance(value or {}, dict):
            raise UserError(f"{name}: must be a dict by names of one's own, not {value!r}")


def _config_places(args: list[str]) -> list[int]:
    """Where in ``args`` the values of ``--config`` are."""
    behind = [place for place in range(1, len(args)) if args[place - 1] in ("-c", "--config")]
    return sorted([*behind, *(place for place, arg in enumerate(args) if arg.startswith("--config="))])


def _merge(into: Config, other: Config) -> None:
    for key, value in other.items():
        old = into.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and old.get("class_path") == value.get("class_path", old.get("class_path"))
        ):
            _merge(old, value)
        else:
            into[key] = copy.deepcopy(value)


def read_config(path: Path) -> Config:
    """The options in the YAML file ``path``.

    Raises:
        UserError: When it can't be read or holds something else.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read the config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} has no options in it: a config is lines of 'name: value'")
    config: Config = with_current_paths(content)
    return config


def find_config(name: str, place: Path | None = None) -> Path:
    """The config ``name``: a file that exists, else one that comes with the program, with or without its ending.

    Args:
        name: A file, relative to the current folder, or to one that the config ``place`` lies in; or a name, such as
            ``quickstart`` and ``with/l1``.
        place: The config that names it, if one does.

    Raises:
        UserError: When there is none, with the nearest name.
    """
    beside = () if place is None else place.absolute().parents
    for path in (folder / name for folder in (Path(), *beside)):
        # Not a folder: a person's own may be called as a config is. Not only files: a shell can make a pipe of one.
        if os.path.exists(path) and not os.path.isdir(path):
            return path
    bare = name.removeprefix("configs/").removesuffix(".yaml")
    if bare in config_names():
        return _packaged() / f"{bare}.yaml"
    reason = os.strerror(errno.EISDIR if os.path.isdir(name) else errno.ENOENT)
    absent = f"can't read the config {name}: {reason}"
    absent = absent if place is None else f"there is no config {name}, neither here nor beside {place}"
    raise UserError(absent + _nearest_config(bare))


def config_names() -> list[str]:
    """The names of the configs that come with the program."""
    return sorted(path.relative_to(_packaged()).with_suffix("").as_posix() for path in _packaged().rglob("*.yaml"))


def _packaged() -> Path:
    """The folder of the configs that come with the program: in the package, or beside it in a checkout."""
    package = Path(regularization.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _nearest_config(name: str) -> str:
    """Those of the same last name, in whichever folder; else the nearest of the same folder."""
    folder, _, last = name.rpartition("/")
    known = {config: config.rpartition("/") for config in config_names()}
    beside = {parts[2]: config for config, parts in known.items() if parts[0] == folder}
    same = [config for config, parts in known.items() if parts[2] == last]
    return suggest(same or [beside[one] for one in get_close_matches(last, beside, n=2)])


def as_text(config: Config) -> str:
    """``config`` as JSON, with YAML's names for the numbers that JSON does not have."""
    names = {math.inf: "\0.inf", -math.inf: "\0-.inf"}

    def marked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        if isinstance(value, list):
            return [marked(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return names.get(value, "\0.nan")
        return value

    return re.sub(r'"\\u0000(-?\.(?:inf|nan))"', r"\1", json.dumps(marked(config)))


def load_yaml(text: str) -> Any:
    """``text`` as jsonargparse reads it: plain YAML 1.1 takes ``1e-5`` for a string."""
    return get_loader("yaml")(text)


def kept_lambdas(optimizer: Namespace, configs: dict[Path, Config], args: list[str]) -> Iterator[str]:
    """λ means something else to another optimizer: a config's is seldom right for the command line's."""
    named = any(arg.split("=")[0].endswith("optimizer.weight_decay") for arg in args)
    for path, config in configs.items():
        asked = (config.get("model") or {}).get("optimizer") or {}
        asked = {"class_path": asked} if isinstance(asked, str) else asked
        then, now = (str(name).rpartition(".")[2] for name in (asked.get("class_path", ""), optimizer.class_path))
        kept = (asked.get("init_args") or {}).get("weight_decay")
        if then and kept and then != now and kept == optimizer.init_args.get("weight_decay") and not named:
            yield f"weight_decay {kept} was chosen for {then} in {path.name}; {now} uses it otherwise"


def data_class(config: Namespace) -> type[ImageData]:
    """The class that the config of the data names."""
    module, _, name = config.class_path.rpartition(".")
    found: type[ImageData] = getattr(sys.modules[module], name)
    return found


def with_classes(part: Namespace, num_classes: int) -> Namespace:
    """The config of a network, or a mixing, with ``num_classes`` where its class or function takes it.

    Raises:
        UserError: When it takes no such argument.
    """
    module, _, name = part.class_path.rpartition(".")
    accepted = inspect.signature(getattr(sys.modules[module], name)).parameters
    if "num_classes" in part.init_args:
        part.init_args.num_classes = num_classes
    elif any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        part.dict_kwargs = {**part.get("dict_kwargs", {}), "num_classes": num_classes}
    else:
        raise UserError(f"{part.class_path} has no argument num_classes, so it can't fit the data")
    return part


def _option_names(parser: LightningArgumentParser) -> list[str]:
    """What a mistyped name may have meant: options, those inside our classes, and class names."""
    commands = [command for action in parser._actions for command in getattr(action, "_name_parser_map", {}).values()]
    actions = [action for owner in [parser, *commands] for action in owner._actions]
    options = [action.dest for action in actions if not action.dest.endswith(".help")]
    if "model.optimizer" not in options:
        return options
    public = [getattr(regularization, name) for name in regularization.__all__ if name[0].isupper()]
    configurable = [cls for cls in public if not issubclass(cls, Exception)]
    inner = [name for cls in [*configurable, torch.optim.SGD] for name in _init_arguments(cls)]
    used = {"data": CIFAR10, "model.network": regularization.SmallResNet, "model.optimizer": torch.optim.SGD}
    whole = [f"{option}.{name}" for option, cls in used.items() for name in _init_arguments(cls)]
    groups = [option.partition(".")[0] for option in options]
    return [*options, *groups, *inner, *regularization.__all__, *torch.optim.__all__, *whole]


def _init_arguments(cls: type) -> list[str]:
    return [name for base in cls.__mro__[:-1] for name in inspect.signature(base).parameters]
