"""Reads weight files, in safetensors or PyTorch format, without running code that they contain."""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from regularization.errors import UserError
from regularization.runs import checkpoint_io

# torchvision's files of DenseNets use names with norm.1 for what its networks call norm1.
_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.")
# Averaged weights come first, because they are the better ones if a checkpoint has both.
_AVERAGED = re.compile(r"(^|[_/])ema([_/]|$)")
_MAX_DEPTH = 3


class _IgnoredMapping:
    """Replaces a class that a file names: an instance is an empty dict, which accepts items and attributes."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


class _IgnoredState:
    """Replaces a class whose instances have a state that is not a dict: the state is dropped."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_state_dicts(path: Path) -> list[dict[str, Tensor]]:
    """All dictionaries of tensors by name in a file, those of averaged weights first.

    Raises:
        UserError: If the file cannot be read, or has none.
    """
    if not path.is_file():
        raise UserError(f"--model.weights: there is no file {path}")
    try:
        if zipfile.is_zipfile(path):
            checkpoint_io.check_sizes(path)
        content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    except UserError as error:
        raise UserError(f"--model.weights: {error}") from error
    except ImportError as error:
        raise UserError(f"--model.weights: {path} is in the format of safetensors: pip install safetensors") from error
    except Exception as error:
        raise UserError(f"--model.weights: {path} is damaged, or contains more than tensors") from error
    found = sorted(_state_dicts(content, ()), key=lambda item: not _AVERAGED.search(item[0]))
    if not found:
        raise UserError(
            f"--model.weights: {path} does not contain the state dict of a network (a pickled network contains more "
            "than tensors: save its state_dict())"
        )
    return [{_DENSE.sub(r"\1\2.", name): tensor for name, tensor in tensors.items()} for _, tensors in found]


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins with the length of a header in JSON, whatever its suffix."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    """The content of the file, with an empty object in place of everything that is not made of tensors and builtins.

    Checkpoints often contain a scalar of NumPy, the arguments of a script or the options of a program.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # a file from before PyTorch 1.6
        names = []
    ignored: list[Any] = [
        (_IgnoredState if name.startswith(("numpy.", "functools.")) else _IgnoredMapping, name) for name in names
    ]
    # Pass an open file: for a path with the suffix of safetensors, PyTorch expects that format.
    with torch.serialization.safe_globals(ignored), path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _state_dicts(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each dictionary in ``content`` that has tensors, with the keys that lead to it."""
    if not isinstance(content, dict) or len(keys) > _MAX_DEPTH:
        return
    if tensors := {str(name): value for name, value in content.items() if isinstance(value, Tensor)}:
        yield "/".join(keys).lower(), tensors
    for key, value in content.items():
        yield from _state_dicts(value, (*keys, str(key)))
