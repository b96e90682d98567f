"""Checks the config in a checkpoint: only trusted classes and arguments, and no options of another machine.

The checkpoint may come from someone else. Its config is therefore parsed on its own, with only the imports that
``safe_loading`` allows and without reading files. Only the options listed here are kept from the result.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Set
from typing import Any

import torchvision.datasets
from jsonargparse import Namespace, get_loader
from torch import nn
from yaml import YAMLError

from regularization.errors import UserError, printable
from regularization.runs import safe_loading

# Top-level keys of the config that are read from a checkpoint; options of a single invocation are not among them.
SECTIONS = ("seed_everything", "model", "data", "callbacks", "checkpoint", "objective", "trainer")
# Options of the Trainer that determine how to train. The others determine where, or name files: they depend on the
# machine.
_TRAINER_OPTIONS = {
    "accelerator",
    "accumulate_grad_batches",
    "benchmark",
    "check_val_every_n_epoch",
    "detect_anomaly",
    "deterministic",
    "fast_dev_run",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "inference_mode",
    "log_every_n_steps",
    "num_sanity_val_steps",
    "overfit_batches",
    "precision",
    "reload_dataloaders_every_n_epochs",
    "sync_batchnorm",
    "val_check_interval",
    *(f"limit_{stage}_batches" for stage in ("train", "val", "test", "predict")),
    *(f"{bound}_{unit}" for bound in ("max", "min") for unit in ("epochs", "steps")),
    "max_time",
}
# Arguments that make functions of torchvision and timm load weights, and the values that disable it: the checkpoint
# itself contains the weights.
_LOADING_ARGUMENTS = {
    "weights": None,
    "weights_backbone": None,
    "pretrained": False,
    "pretrained_backbone": False,
    "pretrained_cfg": None,
    "pretrained_cfg_overlay": None,
    "checkpoint_path": None,
    "cache_dir": None,
    "progress": True,
}
# Arguments that timm's model functions accept in addition to those of the network classes.
_TIMM_ARGUMENTS = {"bn_momentum", "bn_eps", "bn_tf", "drop_connect_rate"}
# Strings allowed in the arguments of a network: a word or a class path, not a URL, a file path, or YAML.
_WORD = re.compile(r"[\w.+-]*")


def accept(config: Any, parse: Callable[[Any], Namespace], named_by_user: Set[str]) -> Namespace:
    """Parses the config of a checkpoint, or a part of it, and checks what was parsed.

    Call it inside ``safe_loading.restrict_imports``.

    Args:
        config: The config stored in the checkpoint, or a part of it.
        parse: The function that parses it.
        named_by_user: Paths of the classes that the user's own config names.

    Raises:
        UserError: When it cannot be parsed, or contains something that a checkpoint must not contain.
    """
    try:
        _check_structure(config)
        parsed = parse(config)
        _check(parsed, named_by_user)
        return parsed
    except UserError:
        raise
    except Exception as error:
        # A parser may raise any exception for malformed input. The cause is the checkpoint, not this program.
        reason = printable(" ".join(str(error).split())[:200])
        raise UserError(f"the config in the checkpoint cannot be used: {type(error).__name__}: {reason}") from error


def without_places(config: Namespace, local: Namespace) -> list[str]:
    """Removes from a parsed config the options that belong to the machine on which it was written.

    These are the folders of data and runs, devices and processes, loggers, and everything else that writes files.

    Args:
        config: The config; changed in place.
        local: The options and defaults of this machine, which apply instead.

    Returns:
        The names of the removed options whose values differ on this machine.
    """
    names = [f"trainer.{name}" for name in vars(config.trainer) if name not in _TRAINER_OPTIONS]
    names += [
        name
        for name in ("model.weights", "model.compile", "data.init_args.root", "data.init_args.arrays")
        if name in config
    ]
    removed = {name: config.pop(name) for name in names}
    changed = [name for name, value in removed.items() if value and value != local.get(name)]
    return [name.replace("init_args.", "") for name in changed]


def class_paths_in(config: Any) -> list[str]:
    """The import paths of all classes and functions in a parsed config, and the paths at which these are defined.

    Other strings, such as file names, are ignored even if they look like class paths.
    """
    if isinstance(config, Namespace):
        return class_paths_in(vars(config))
    if isinstance(config, dict):
        named = config.get("class_path")
        own = [*_paths_of(_imported(named)), named] if isinstance(named, str) else []
        return [*own, *(path for value in config.values() for path in class_paths_in(value))]
    if isinstance(config, list | tuple):
        return [path for value in config for path in class_paths_in(value)]
    return list(_paths_of(config)) if callable(config) else []


def _check_structure(config: Any) -> None:
    """Checks that a config has only plain values: no string is YAML, or ``-``, for which a parser would read stdin."""
    for text in _texts_in(config):
        if text != printable(text) or text.strip() == "-" or isinstance(_value_of(text), dict | list | set | tuple):
            raise _refusal(f"has the text {text[:100]!r} in its config, where a plain value belongs")


def _value_of(text: str) -> Any:
    try:
        return get_loader("yaml")(text)
    except YAMLError:
        return text  # not valid YAML, so parsers also treat it as a plain string


def _check(config: Any, named_by_user: Set[str]) -> None:
    """Checks that a parsed config has only trusted classes, with arguments that describe them; nothing is created.

    Arguments that would load weights are changed, so that they load none.
    """
    if isinstance(config, Namespace | dict):
        values = vars(config) if isinstance(config, Namespace) else config
        if "class_path" in values and not named_by_user & set(_paths_of(_imported(values["class_path"]))):
            _check_class(values)
        for value in values.values():
            _check(value, named_by_user)
    elif isinstance(config, list | tuple):
        for value in config:
            _check(value, named_by_user)
    elif callable(config) and not named_by_user & set(_paths_of(config)) and not _is_trusted_argument(config):
        raise _refusal(f"names {_path_of(config)}, which is not the class of a layer or a data set of torchvision")


def _check_class(values: dict[str, Any]) -> None:
    """Checks a class or a function with its arguments."""
    path = values["class_path"]
    made_by = _imported(path)
    if not _is_trusted(made_by):
        raise _refusal(f"names {path}, which is not part of this program, torch, torchvision or timm")
    arguments = [_as_dict(path, values.get(key)) for key in ("init_args", "dict_kwargs")]
    if not inspect.isclass(made_by):
        _check_function(path, made_by, arguments)
    if path.partition(".")[0] != "regularization":
        _check_words(path, arguments)
    _check_words(path, [part.get("options") for part in arguments])  # passed to a data set of torchvision


def _as_dict(path: str, arguments: Any) -> dict[str, Any]:
    values = vars(arguments) if isinstance(arguments, Namespace) else arguments or {}
    if not isinstance(values, dict):
        raise _refusal(f"gives {path} the arguments {arguments!r:.100}")
    return values


def _check_function(path: str, function: Any, arguments: list[dict[str, Any]]) -> None:
    """Checks the arguments of a function that makes a network; those that load weights are changed."""
    known = _arguments_of_network(path, function, arguments)
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    for part in arguments:
        for name, value in part.items():
            if name in _LOADING_ARGUMENTS:
                part[name] = _LOADING_ARGUMENTS[name]
            elif name not in known and not (name in defaults and value == defaults[name]):
                raise _refusal(f"gives {path} the argument {name}, which is not one of the network itself")


def _arguments_of_network(path: str, function: Any, arguments: list[dict[str, Any]]) -> set[str]:
    """The names of the arguments that describe the network created by a function of torchvision or timm."""
    chosen = next((part["model_name"] for part in arguments if "model_name" in part), "")
    if ":" in str(chosen):
        raise _refusal(f"wants to download {chosen}")
    builder = _builder(path, function, str(chosen).partition(".")[0])
    network = inspect.signature(builder).return_annotation if builder else None
    if not inspect.isclass(network):
        raise _refusal(f"names {path}, which is neither the class of a layer nor an image classifier")
    described = {name for base in network.__mro__ for name in inspect.signature(base).parameters}
    return described | {"model_name"} | (_TIMM_ARGUMENTS if path.startswith("timm.") else set())


def _builder(path: str, function: Any, model_name: str) -> Callable[..., Any] | None:
    """The function that makes the network: ``function``, or the one that ``timm.create_model`` would call."""
    if path.startswith("timm."):
        import timm

        name = model_name if function is timm.create_model else getattr(function, "__name__", "")
        builder = timm.models.model_entrypoint(name) if timm.is_model(name) else None
        return builder if function in (builder, timm.create_model) else None
    # Functions for other tasks, such as detection, are excluded: they load weights by default.
    is_classifier = re.fullmatch(r"torchvision\.models\.\w+", getattr(function, "__module__", ""))
    return function if is_classifier and not path.endswith(".get_model") else None


def _check_words(path: str, value: Any) -> None:
    """Checks that all strings in the arguments of a class of another package match ``_WORD``."""
    for text in _texts_in(value):
        if not _WORD.fullmatch(text):
            raise _refusal(f"gives {path} the text {text[:100]!r}")


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_in(item)
    elif isinstance(value, dict | Namespace):
        for key, item in (value if isinstance(value, dict) else vars(value)).items():
            yield str(key)
            yield from _texts_in(item)


def _imported(path: Any) -> Any:
    """The class or function at ``path``, None if the parser has not imported it."""
    module, _, name = str(path).rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _is_trusted(item: Any) -> bool:
    return safe_loading.is_trusted(_path_of(item))


def _is_trusted_argument(item: Any) -> bool:
    if not inspect.isclass(item):
        return False
    if issubclass(item, torchvision.datasets.VisionDataset):
        return getattr(torchvision.datasets, item.__name__, None) is item
    return issubclass(item, nn.Module) and _is_trusted(item)


def _path_of(item: Any) -> str:
    """The import path at which a class or function is defined."""
    return f"{getattr(item, '__module__', None)}.{getattr(item, '__qualname__', type(item).__name__)}"


def _paths_of(item: Any) -> Iterator[str]:
    """The import path at which a class or function is defined, and those in parent packages that export it too."""
    module, name = getattr(item, "__module__", None), getattr(item, "__qualname__", None)
    while module and name:
        if getattr(sys.modules.get(module), name, None) is item:
            yield f"{module}.{name}"
        module = module.rpartition(".")[0]


def _refusal(reason: str) -> UserError:
    return UserError(printable(f"the checkpoint {reason}") + ";\nadd --trust if you trust whoever made it")
