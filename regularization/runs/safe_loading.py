"""Which code a checkpoint may name. Users chose their configs; a checkpoint may come from someone else."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from jsonargparse import Namespace, set_parsing_settings

from regularization import _MODULES
from regularization.errors import UserError
from regularization.internals.jsonargparse import preserve_parsing_settings

# The help of the option --trust, which every command that reads a checkpoint has.
HELP = "Allow any class that the checkpoint names, not only those of this program, torch, torchvision and timm."
_DOWNLOAD_OPTION = re.compile(r"weights|pretrained|checkpoint_path$")
# While this variable is set, torch.load reads tensors and plain types only, even with weights_only=False.
_FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"

# The public names that configs use. Not among them: load, for instance, would read another checkpoint.
_CONFIGURABLE = {
    name: module for name, module in _MODULES.items() if module not in ("api", "inference.trained_model", "errors")
}
# Parts of packages that define layers, optimizers and transforms; torch.hub, for instance, would load code.
TRUSTED = [
    *(f"regularization.{name}" for name in _CONFIGURABLE),
    *sorted({f"regularization.{module}" for module in _CONFIGURABLE.values()}),
    "torch.nn",
    "torch.optim",
    "torchvision.datasets",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.cli.ReduceLROnPlateau",
]
# Modules of version 0.1 that class paths may name, and where their classes are now.
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
    """Returns ``text`` or, where it is a class path of version 0.1, the class path of today."""
    module, _, name = text.rpartition(".")
    return f"{MOVED[module]}.{name}" if module in MOVED else text


def with_current_paths(config: Any) -> Any:
    """Returns ``config`` with ``current_path`` of each text in it."""
    if isinstance(config, dict):
        return {key: with_current_paths(value) for key, value in config.items()}
    if isinstance(config, list):
        return [with_current_paths(value) for value in config]
    return current_path(config) if isinstance(config, str) else config


def upgrade(checkpoint: dict[str, Any]) -> None:
    """Changes a checkpoint of version 0.1 into one of today: class paths in its config, names of callbacks."""
    checkpoint["config"] = with_current_paths(checkpoint["config"])
    callbacks = checkpoint.get("callbacks")
    if isinstance(callbacks, dict):
        # Lightning's key of a callback is the name of its class, then its arguments in braces.
        renamed = {re.sub(r"^Best(?={)", "BestCheckpoint", str(key)): state for key, state in callbacks.items()}
        checkpoint["callbacks"] = renamed


@contextmanager
def restrict_imports(named_by_user: list[str]) -> Iterator[None]:
    """Makes parsers import only what is trusted or in ``named_by_user``, and read no configs from the network.

    A value can name a class by its path, by its bare name, in YAML within a text, or in a file. In each case the parser
    looks the class up itself, and it first checks these lists: for the name, and for the module that defines the class.
    """
    force_weights_only = os.environ.get(_FORCE_WEIGHTS_ONLY)
    with preserve_parsing_settings():
        os.environ[_FORCE_WEIGHTS_ONLY] = "1"
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=[*TRUSTED, *(name for name in named_by_user if _is_path(name))],
            config_read_mode_fsspec_enabled=False,
        )
        try:
            yield
        finally:
            if force_weights_only is None:
                del os.environ[_FORCE_WEIGHTS_ONLY]
            else:
                os.environ[_FORCE_WEIGHTS_ONLY] = force_weights_only


def strip_download_options(config: Any, key: str = "") -> Any:
    """A checkpoint's config without the options that make networks of torchvision and timm download weights.

    The checkpoint brings its own weights; it has no reason to name a file or an address.

    Args:
        config: The config, or the part of it at ``key``.
        key: The name of this part.

    Raises:
        UserError: When the name of a model is an address.
    """
    if isinstance(config, list):
        return [strip_download_options(item, key) for item in config]
    if not isinstance(config, dict):
        return config
    if ":" in str(config.get("model_name", "")):
        raise UserError(
            f"the checkpoint wants to download {config['model_name']}; add --trust if you trust whoever made it"
        )
    # model.weights is our own option, which has no effect where a checkpoint brings weights.
    kept = {name: item for name, item in config.items() if key == "model" or not _DOWNLOAD_OPTION.match(str(name))}
    return {name: strip_download_options(item, str(name)) for name, item in kept.items()}


def class_paths_in(config: Any) -> list[str]:
    """All dotted names in a parsed config: the class paths, and other texts that look like them."""
    if isinstance(config, Namespace):
        return class_paths_in(vars(config))
    if isinstance(config, dict):
        return [name for value in config.values() for name in class_paths_in(value)]
    if isinstance(config, list | tuple):
        return [name for value in config for name in class_paths_in(value)]
    if isinstance(config, type):
        # Packages export the classes of their modules.
        packages = accumulate(config.__module__.split("."), "{}.{}".format)
        return [f"{package}.{config.__qualname__}" for package in packages]
    return _with_definition(config) if isinstance(config, str) else []


def _with_definition(name: str) -> list[str]:
    """``name`` and, where its module was imported, the path of the place that defines its object."""
    if not _is_path(name):
        return []
    module, _, member = name.rpartition(".")
    item: Any = getattr(sys.modules.get(module), member, None)
    return [name, f"{item.__module__}.{item.__qualname__}"] if hasattr(item, "__qualname__") else [name]


def _is_path(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts) and parts[0] != "jsonargparse"
