"""Names of regularizers: the kind that an arm sets, and the other regularizers in the config of a run."""

from pathlib import Path

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.analysis.arms import ArmSummary
from regularization.study.config import LEARNING_RATE, Study
from regularization.training.configs import read_config
from regularization.training.regularizers import regularizers_in

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
    """Names of the regularizers in a run's config, apart from the options that the study varies."""
    try:
        config = read_config(run_dir / directory.CONFIG)
    except (OSError, UserError):
        return []
    named = {option: name for option, (name, _) in regularizers_in(config).items()}
    return [name for option, name in named.items() if not _is_varied(option, varied)]


def _is_varied(option: str, varied: set[str]) -> bool:
    """Whether the study varies the option, or a part of it."""
    return any(f"{_plain(other)}.".startswith(f"{_plain(option)}.") for other in varied)


def _plain(option: str) -> str:
    return option.replace(".init_args", "")
