"""Names of regularizers: which kind an arm sets, and what else the config of a run regularizes by."""

from pathlib import Path
from typing import Any

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.analysis.arms import ArmSummary
from regularization.training.configs import read_config

_KINDS = {
    "weight_decay": "Weight decay",
    "timescale_epochs": "Weight decay",
    "dropout": "Dropout",
    "stochastic_depth": "Stochastic depth",
    "label_smoothing": "Label smoothing",
    "cutout": "Cutout",
}
# Options of a run that regularize, with their names; a value of 0 or null switches them off.
_OPTIONS = {
    "model.optimizer.init_args.weight_decay": "weight decay",
    "model.timescale_epochs": "weight decay by its timescale",
    "model.label_smoothing": "label smoothing",
    "model.network.init_args.dropout": "dropout",
    "model.network.init_args.stochastic_depth": "stochastic depth",
    "data.init_args.flip": "flips",
    "data.init_args.crop_padding": "crops",
    "data.init_args.cutout": "cutout",
    "data.init_args.mixup": "MixUp",
    "data.init_args.cutmix": "CutMix",
}


def kind_of(arm: ArmSummary) -> str:
    """The kind of regularization of an arm in words: the option that it sets, or its name in the study's config."""
    values = arm.results[0].values
    set_options = [option for option, value in values.items() if value]
    if len(set_options) != 1 or arm.results[0].group != arm.name:
        return arm.results[0].group
    option = set_options[0]
    if option.startswith("model.penalties."):
        return f"Penalty {option.split('.')[2]}"
    return _KINDS.get(option.rpartition(".")[2], arm.results[0].group)


def others_in(run_dir: Path, varied: set[str]) -> list[str]:
    """What the config of a run regularizes by, apart from the options that the study varies."""
    try:
        config = read_config(run_dir / directory.CONFIG)
    except (OSError, UserError):
        return []
    names = [name for option, name in _OPTIONS.items() if _lookup(config, option) and _plain(option) not in varied]
    names += [f"penalty {name}" for name in _lookup(config, "model.penalties") or {}]
    return names


def _plain(option: str) -> str:
    return option.replace(".init_args", "")


def _lookup(config: Any, option: str) -> Any:
    for key in option.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
