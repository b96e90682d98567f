"""Names of regularizers: which kind an arm sets, and what else the config of a run regularizes by."""

from pathlib import Path
from typing import Any

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.analysis.arms import ArmSummary
from regularization.study.config import LEARNING_RATE, Study
from regularization.training.configs import read_config

_KINDS = {
    "weight_decay": "Weight decay",
    "timescale_epochs": "Weight decay",
    "dropout": "Dropout",
    "stochastic_depth": "Stochastic depth",
    "drop_block": "DropBlock",
    "label_smoothing": "Label smoothing",
    "cutout": "Cutout",
    "rho": "Sharpness-aware minimization",
}
# Options of a run that regularize, with their names; a value of 0 or null switches them off.
_OPTIONS = {
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


def kind_of(arm: ArmSummary, study: Study) -> str:
    """The kind of regularization of an arm in words: the option that it sets, or its name in the study's config."""
    options = [option for option in study.vary if option != LEARNING_RATE and arm.results[0].values.get(option)]
    if len(options) != 1:
        return arm.results[0].group
    if options[0].startswith("model.penalties."):
        return f"Penalty {options[0].split('.')[2]}"
    if options[0].startswith("data.augmentations."):
        return f"Augmentation {options[0].split('.')[2]}"
    return _KINDS.get(options[0].rpartition(".")[2], options[0])


def others_in(run_dir: Path, varied: set[str]) -> list[str]:
    """What the config of a run regularizes by, apart from the options that the study varies."""
    try:
        config = read_config(run_dir / directory.CONFIG)
    except (OSError, UserError):
        return []
    settings = {option: name for option, name in _OPTIONS.items() if _lookup(config, option)}
    mixing = _lookup(config, "model.mixing") or {}
    for name, part in ({"": mixing} if "class_path" in mixing else mixing).items():
        if class_path := _lookup(part, "class_path"):
            settings[f"model.mixing.{name}".removesuffix(".")] = class_path.rpartition(".")[2]
    if (sharpness := _lookup(config, "model.sharpness.class_path")) and _lookup(
        config, "model.sharpness.init_args.rho"
    ):
        settings["model.sharpness"] = sharpness.rpartition(".")[2]
    for name, augmentation in (_lookup(config, "data.init_args.augmentations") or {}).items():
        if augmentation:
            settings[f"data.augmentations.{name}"] = f"augmentation {name}"
    for name, penalty in (_lookup(config, "model.penalties") or {}).items():
        if penalty and _lookup(penalty, "init_args.strength") != 0:
            settings[f"model.penalties.{name}"] = f"penalty {name}"
    return [name for option, name in settings.items() if not _is_varied(option, varied)]


def _is_varied(option: str, varied: set[str]) -> bool:
    """Whether the study varies the option, or a part of it."""
    return any(f"{_plain(other)}.".startswith(f"{_plain(option)}.") for other in varied)


def _plain(option: str) -> str:
    return option.replace(".init_args", "")


def _lookup(config: Any, option: str) -> Any:
    for key in option.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
