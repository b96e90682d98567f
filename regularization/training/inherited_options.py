"""Options that depend on others: the metric of early stopping, λ for another optimizer, the number of classes."""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from regularization.errors import UserError
from regularization.models.objective import Objective
from regularization.training.configs import Config

# The metric that early stopping monitors if neither a monitor nor an objective is given.
_MONITOR = "val_loss"


def with_monitors(config: Config, options: Sequence[str]) -> Config:
    """Makes early stopping without a monitor of its own monitor the objective, if one is given; returns the config.

    Args:
        config: The merged configs; changed in place.
        options: The command line, which wins over the configs.
    """
    line = " ".join(options)
    given = [config.get("objective"), *re.findall(r"--objective[= ](\S+)", line)][-1]
    for name, callback in (config.get("callbacks") or {}).items():
        if not isinstance(callback, dict) or not str(callback.get("class_path")).endswith("EarlyStopping"):
            continue
        is_named = re.search(rf"--callbacks\.{re.escape(name)}\.(init_args\.)?monitor\b", line)
        objective = Objective.parse(_MONITOR if is_named or not given else str(given))
        follow = {"monitor": objective.metric, "mode": objective.mode}
        arguments = callback.get("init_args") or {}
        callback["init_args"] = arguments if "monitor" in arguments else follow | arguments
    return config


def inherited_weight_decay(
    optimizer: Namespace, paths: Sequence[Path], configs: Sequence[Config], options: Sequence[str]
) -> Iterator[str]:
    """Yields a warning for each config that sets λ for another optimizer: it is seldom right for the one in use."""
    if any(word.split("=")[0].endswith("optimizer.weight_decay") for word in options):
        return
    for path, config in zip(paths, configs, strict=True):
        value = (config.get("model") or {}).get("optimizer") or {}
        value = {"class_path": value} if isinstance(value, str) else value
        names = [str(name).rpartition(".")[2] for name in (value.get("class_path", ""), optimizer.class_path)]
        strength = (value.get("init_args") or {}).get("weight_decay")
        if names[0] and strength and names[0] != names[1] and strength == optimizer.init_args.get("weight_decay"):
            yield (
                f"weight_decay {strength} was chosen for {names[0]} in {path.name}; {names[1]} applies it differently, "
                "so set it explicitly"
            )


def set_num_classes(model: Namespace, data: Namespace) -> None:
    """Sets the argument ``num_classes`` of the network and of each mixing to the number of classes of the data.

    Args:
        model: The parsed config of the model; changed in place.
        data: The parsed config of the data.

    Raises:
        UserError: When a class has no such argument.
    """
    num_classes = _imported(data.class_path).count_classes(data.init_args)
    mixings = model.mixing.values() if isinstance(model.mixing, dict) else [model.mixing]
    for part in (model.network, *filter(None, mixings)):
        _set(part, num_classes)


def _imported(class_path: str) -> Any:
    """The class or function at ``class_path``, which the parser has imported."""
    module, _, name = class_path.rpartition(".")
    return getattr(sys.modules[module], name)


def _set(config: Namespace, num_classes: int) -> None:
    parameters = inspect.signature(_imported(config.class_path)).parameters
    if "num_classes" in config.init_args:
        config.init_args.num_classes = num_classes
    elif any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        config.dict_kwargs = {**config.get("dict_kwargs", {}), "num_classes": num_classes}
    else:
        raise UserError(f"{config.class_path} has no argument num_classes, so it can't fit the data")
