"""Trust: which code a checkpoint may name. A config is a program that its user chose; a checkpoint came along."""

import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from regularization.mistakes import Mistake

# Parts of packages that define layers, optimizers and transforms; torch.hub, for instance, would load code.
TRUSTED = (
    "regularization.",
    "torch.nn.",
    "torch.optim.",
    "torchvision.models.",
    "torchvision.ops.",
    "torchvision.transforms.",
    "timm.",
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.cli.ReduceLROnPlateau",
)
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def check_names(stored: Any, chosen: list[str], path: object) -> None:
    """Checks the class paths, and whatever else could be imported, in the config that a checkpoint holds.

    Args:
        stored: The config.
        chosen: What the user has named himself, on the command line or in his configs.
        path: The checkpoint, for the message.

    Raises:
        Mistake: Naming the first that is neither of a trusted package nor chosen.
    """
    for name in names(stored):
        if name not in chosen and not _is_trusted(name):
            raise Mistake(
                f"{path} wants to run {name}, which belongs neither to this program nor to torch, torchvision or "
                "timm.\nIf you trust whoever made the checkpoint, add --trust, or name the class in your own config."
            )


def names(config: Any) -> Iterator[str]:
    """Every class path in ``config``, and every other string that a parser could take for one."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "class_path" and isinstance(value, str) and "." in value:
                yield value
            else:
                yield from names(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from names(value)
    elif isinstance(config, str) and _DOTTED.fullmatch(config) and importlib.util.find_spec(config.partition(".")[0]):
        yield config


def _is_trusted(name: str) -> bool:
    """Whether both the name and what it leads to belong to trusted packages: ``regularization.runs.os.system`` not."""
    if not name.startswith(TRUSTED):
        return False
    found: Any = None
    module, *rest = name.split(".")
    found = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        try:
            found = getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
        except ImportError:
            return True  # Nothing that could be run; the parser says what is wrong with it.
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return home.startswith(TRUSTED) or not callable(found)


def strings(config: Any) -> list[str]:
    """Every string in ``config``."""
    if isinstance(config, dict):
        return [text for value in config.values() for text in strings(value)]
    if isinstance(config, list | tuple):
        return [text for value in config for text in strings(value)]
    return [config] if isinstance(config, str) else []
