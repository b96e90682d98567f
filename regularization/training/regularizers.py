"""The regularizers in the config of a run, and their description in words."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Options of a run that regularize, with their names; a value of 0 or null switches them off.
OPTIONS = {
    "model.optimizer.init_args.weight_decay": "weight decay",
    "model.timescale_epochs": "weight decay by its timescale",
    "model.label_smoothing": "label smoothing",
    "model.network.init_args.dropout": "dropout",
    "model.network.init_args.stochastic_depth": "stochastic depth",
    "model.network.init_args.drop_block": "DropBlock",
    "data.init_args.flip": "flips",
    "data.init_args.crop_padding": "crops",
    "data.init_args.cutout": "cutout",
}
# Callbacks that regularize, by their classes.
CALLBACKS = {name: name for name in ("EMA", "SWA", "LAWA", "Lookahead")} | {"EarlyStopping": "early stopping"}


def regularizers_in(config: Mapping[str, Any]) -> dict[str, tuple[str, float | None]]:
    """The regularizers of a config, by their options: the name of each, and its strength if it has one.

    Args:
        config: The config of a run with all its defaults, as ``config.yaml`` has it.
    """
    found: dict[str, tuple[str, float | None]] = {}
    for option, name in OPTIONS.items():
        if value := lookup(config, option):
            found[option] = (name, _strength(value))
    if "model.timescale_epochs" in found:
        # It sets λ in place of the optimizer's own.
        found.pop("model.optimizer.init_args.weight_decay", None)
    for option, part in _parts(config, "model.mixing"):
        found[option] = (_class_of(part), _strength(lookup(part, "init_args.alpha")))
    if sharpness := lookup(config, "model.sharpness.init_args.rho"):
        found["model.sharpness"] = (_class_of(lookup(config, "model.sharpness")), _strength(sharpness))
    for name, augmentation in (lookup(config, "data.init_args.augmentations") or {}).items():
        if augmentation:
            found[f"data.augmentations.{name}"] = (f"augmentation {name}", None)
    for name, penalty in (lookup(config, "model.penalties") or {}).items():
        if penalty and (strength := lookup(penalty, "init_args.strength")) != 0:
            found[f"model.penalties.{name}"] = (f"penalty {name}", _strength(strength))
    for option, part in _parts(config, "callbacks"):
        if (name := _class_of(part)) in CALLBACKS:
            found[option] = (CALLBACKS[name], None)
    return found


def describe(config: Mapping[str, Any]) -> str:
    """The regularizers of a config with their strengths, separated by commas; empty without any."""
    named = regularizers_in(config).values()
    return ", ".join(name if strength is None else f"{name} {strength:g}" for name, strength in named)


def lookup(config: Any, option: str) -> Any:
    """The value of an option with dots in a config; None if it is not there."""
    for key in option.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _parts(config: Mapping[str, Any], option: str) -> Iterator[tuple[str, Any]]:
    """The classes of an option that has one class, or several by name."""
    parts = lookup(config, option) or {}
    if "class_path" in parts:
        yield option, parts
    elif isinstance(parts, Mapping):
        yield from ((f"{option}.{name}", part) for name, part in parts.items() if lookup(part, "class_path"))


def _class_of(part: Any) -> str:
    return str(lookup(part, "class_path")).rpartition(".")[2]


def _strength(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
