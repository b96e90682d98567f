"""Trust: which code a checkpoint may name. A config is a program that its user chose; a checkpoint came along."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jsonargparse import Namespace, _common, set_parsing_settings

# Parts of packages that define layers, optimizers and transforms; torch.hub, for instance, would load code.
TRUSTED = [
    "regularization",
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
def guarded(chosen: list[str]) -> Iterator[None]:
    """While it lasts, the parser imports only what is trusted or in ``chosen``, and reads no config from the network.

    Whatever a value is written as: a class path, a class's bare name, YAML within a text, or a file's name, what it
    leads to is looked up by the parser alone, and the parser asks this list first, for the name and for the place that
    its object comes from.
    """
    # jsonargparse's settings are the process's; there is no public way to put them back.
    before = dict(_common.parsing_settings)
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*TRUSTED, *(name for name in chosen if _is_path(name))],
        config_read_mode_fsspec_enabled=False,
    )
    try:
        yield
    finally:
        _common.parsing_settings.update(before)


def named(config: Any) -> list[str]:
    """Every class path in a parsed config, and every other text in it."""
    if isinstance(config, Namespace):
        return named(vars(config))
    if isinstance(config, dict):
        return [name for value in config.values() for name in named(value)]
    if isinstance(config, list | tuple):
        return [name for value in config for name in named(value)]
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
