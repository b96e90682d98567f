"""Restricts which code a checkpoint may name: unlike the user's own config, it may come from someone else."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import set_parsing_settings

from regularization import _MODULES
from regularization.internals.jsonargparse import no_config_files

# The help of the option --trust, which every command that reads a checkpoint has.
HELP = "Allow any class that the checkpoint names, not only those of this program, torch, torchvision and timm."
_ENVIRONMENT = {
    # torch.load reads tensors and plain types only, even with weights_only=False.
    "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    # The interpreter that jsonargparse starts to find the stubs of packages imports nothing from the working directory.
    "PYTHONSAFEPATH": "1",
}

# Modules whose public names no config needs: ``load``, for example, would read another checkpoint.
_NOT_IN_CONFIGS = ("api", "inference.trained_model", "errors", "data.readers", "data.sampling")
_CONFIGURABLE = {name: module for name, module in _MODULES.items() if module not in _NOT_IN_CONFIGS}
# Lightning's callbacks that write no files. ModelCheckpoint and CSVLogger are excluded: they could delete files in any
# folder.
_CALLBACKS = {
    "device_stats_monitor": "DeviceStatsMonitor",
    "early_stopping": "EarlyStopping",
    "gradient_accumulation_scheduler": "GradientAccumulationScheduler",
    "lr_monitor": "LearningRateMonitor",
    "pruning": "ModelPruning",
    "stochastic_weight_avg": "StochasticWeightAveraging",
    "timer": "Timer",
}
# Parts of packages that define layers, optimizers and transforms; torch.hub, for instance, would load code.
TRUSTED = [
    *(f"regularization.{name}" for name in _CONFIGURABLE),
    *sorted({f"regularization.{module}" for module in _CONFIGURABLE.values()}),
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    *(f"lightning.pytorch.callbacks.{name}" for name in _CALLBACKS.values()),
    *(f"lightning.pytorch.callbacks.{module}.{name}" for module, name in _CALLBACKS.items()),
    "lightning.pytorch.loggers.TensorBoardLogger",
    "lightning.pytorch.loggers.tensorboard.TensorBoardLogger",
]
# Module of the classes that the option ``data.dataset`` may name. They are not layers, so it is not in ``TRUSTED``.
DATA_SETS = "torchvision.datasets"
# Class paths and modules that old configs and checkpoints may name, and where the classes are now.
MOVED_CLASSES = dict.fromkeys(
    ("regularization.penalties.L2SP", "regularization.optim.penalties.L2SP"), "regularization.optim.references.L2SP"
)
MOVED = {
    "regularization.classifier": "regularization.models.classifier",
    "regularization.networks": "regularization.models.networks",
    "regularization.penalties": "regularization.optim.penalties",
    "regularization.schedules": "regularization.optim.schedules",
    "regularization.weight_decay": "regularization.optim.weight_decay",
    "regularization.data.folder": "regularization.data.image_folder",
    "regularization.data.modules": "regularization.data.datamodules",
}


def current_path(text: str) -> str:
    """Returns the current class path if ``text`` is a former one, otherwise ``text``."""
    if text in MOVED_CLASSES:
        return MOVED_CLASSES[text]
    module, _, name = text.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else text


def with_current_paths(config: Any) -> Any:
    """Returns ``config`` with ``current_path`` applied to each string in it."""
    if isinstance(config, dict):
        return {key: with_current_paths(value) for key, value in config.items()}
    if isinstance(config, list):
        return [with_current_paths(value) for value in config]
    return current_path(config) if isinstance(config, str) else config


def upgrade(checkpoint: dict[str, Any]) -> None:
    """Upgrades a checkpoint of version 0.1 in place: the class paths in its config and the names of callbacks."""
    checkpoint["config"] = with_current_paths(checkpoint["config"])
    callbacks = checkpoint.get("callbacks")
    if isinstance(callbacks, dict):
        # Lightning's key of a callback is the name of its class, then its arguments in braces.
        renamed = {re.sub(r"^Best(?={)", "BestCheckpoint", str(key)): state for key, state in callbacks.items()}
        checkpoint["callbacks"] = renamed


@contextmanager
def restrict_imports(named_by_user: Iterable[str]) -> Iterator[None]:
    """Makes parsers import only what is trusted or in ``named_by_user``, and read no files in place of values.

    A value can name a class by its path, by its bare name, or in YAML inside a string. In each case the parser resolves
    the class itself, and first checks these lists for its name and for the module that defines it. Nothing is imported
    from the working directory, which may contain modules of someone else besides those of the user; the classes that
    the user's own config names have already been imported.
    """
    with no_config_files(), _restore_process():
        os.environ.update(_ENVIRONMENT)
        sys.path[:] = [entry for entry in sys.path if not _is_working_directory(entry)]
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=[*TRUSTED, DATA_SETS, *filter(_is_path, named_by_user)],
            config_read_mode_fsspec_enabled=False,
        )
        yield


def is_trusted(path: str) -> bool:
    """Whether a class or a function that is defined at ``path`` belongs to what a checkpoint may name."""
    return any(path == name or path.startswith(f"{name}.") for name in TRUSTED)


@contextmanager
def _restore_process() -> Iterator[None]:
    """Restores the search path of modules and the environment at the end."""
    search_path, environment = list(sys.path), {name: os.environ.get(name) for name in _ENVIRONMENT}
    try:
        yield
    finally:
        sys.path[:] = search_path
        for name, value in environment.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def _is_working_directory(entry: str) -> bool:
    return os.path.realpath(entry or ".") == os.path.realpath(".")


def _is_path(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts) and parts[0] != "jsonargparse"
