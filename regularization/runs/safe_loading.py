"""Trust: which code a checkpoint may name. A config is a program that its user chose; a checkpoint came along."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace, _common, set_parsing_settings

from regularization import _MODULES
from regularization.errors import UserError

# The option --trust of every command that reads a checkpoint.
HELP = "Run whatever classes the checkpoint names, not only those of this program, torch, torchvision, timm."
_FETCHING = re.compile(r"weights|pretrained|checkpoint_path$")
# While it is set, torch.load makes tensors and nothing else, whatever it is asked for.
_ONLY_DATA = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"

# What our configs name; load, for instance, would read another checkpoint.
_OURS = {name: home for name, home in _MODULES.items() if home not in ("api", "inference.trained_model", "errors")}
# Parts of packages that define layers, optimizers and transforms; torch.hub, for instance, would load code.
TRUSTED = [
    *(f"regularization.{name}" for name in _OURS),
    *sorted({f"regularization.{home}" for home in _OURS.values()}),
    "torch.nn",
    "torch.optim",
    "torchvision.models",
    "torchvision.ops",
    "torchvision.transforms",
    "timm",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.cli.ReduceLROnPlateau",
]


@contextmanager
def restrict_imports(chosen: list[str]) -> Iterator[None]:
    """While it lasts, the parser imports only what is trusted or in ``chosen``, and reads no config from the network.

    Whatever a value is written as: a class path, a class's bare name, YAML within a text, or a file's name, what it
    leads to is looked up by the parser alone, and the parser asks this list first, for the name and for the place that
    its object comes from.
    """
    # jsonargparse's settings are the process's; there is no public way to put them back.
    before = dict(_common.parsing_settings)
    forced = os.environ.get(_ONLY_DATA)
    os.environ[_ONLY_DATA] = "1"
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*TRUSTED, *(name for name in chosen if _is_path(name))],
        config_read_mode_fsspec_enabled=False,
    )
    try:
        yield
    finally:
        _common.parsing_settings.update(before)
        if forced is None:
            del os.environ[_ONLY_DATA]
        else:
            os.environ[_ONLY_DATA] = forced


def strip_download_options(config: Any, inside: str = "") -> Any:
    """A checkpoint's config without the options by which torchvision's and timm's networks get weights from elsewhere.

    Its own weights follow; a file or an address that it names is none of its business.

    Raises:
        UserError: When a model's name is an address.
    """
    if isinstance(config, list):
        return [strip_download_options(item, inside) for item in config]
    if not isinstance(config, dict):
        return config
    if ":" in str(config.get("model_name", "")):
        raise UserError(f"the checkpoint wants to fetch {config['model_name']}; add --trust if you trust who made it")
    # model.weights is ours, and not used again when a checkpoint is there.
    kept = {key: item for key, item in config.items() if inside == "model" or not _FETCHING.match(str(key))}
    return {key: strip_download_options(item, str(key)) for key, item in kept.items()}


def class_paths_in(config: Any) -> list[str]:
    """Every class path in a parsed config, and every other text in it."""
    if isinstance(config, Namespace):
        return class_paths_in(vars(config))
    if isinstance(config, dict):
        return [name for value in config.values() for name in class_paths_in(value)]
    if isinstance(config, list | tuple):
        return [name for value in config for name in class_paths_in(value)]
    return _with_home(config) if isinstance(config, str) else []


def _with_home(name: str) -> list[str]:
    """``name`` and, where it was imported, the place that its object comes from."""
    if not _is_path(name):
        return []
    found: Any = sys.modules.get(name.rpartition(".")[0])
    found = getattr(found, name.rpartition(".")[2], None)
    return [name, f"{found.__module__}.{found.__qualname__}"] if hasattr(found, "__qualname__") else [name]


def _is_path(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts) and parts[0] != "jsonargparse"
