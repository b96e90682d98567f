"""Arrays: images and labels in NumPy arrays or tensors."""

import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor

from regularization.data.datasets.parts import PartName, PartsData, class_names, one_line
from regularization.data.preprocess import square
from regularization.data.readers import Images
from regularization.errors import UserError


class Arrays(PartsData):
    """Images in NumPy arrays or tensors, from an ``.npz`` file, such as those of MedMNIST, or from Python.

    The arrays are named ``train_images`` and ``train_labels``, or ``x_train`` and ``y_train`` as in Keras. Arrays for
    ``val`` and ``test`` are named likewise and are optional. Images are uint8 of the shape ``(N, H, W)``,
    ``(N, H, W, C)`` or ``(N, C, H, W)`` with 1 or 3 channels. Labels are integers from 0, of the shape ``(N,)`` or
    ``(N, 1)``. An array ``classes`` may name the classes.

    Args:
        arrays: The path of the file; in Python, a dict of arrays is also accepted; required.
    """

    def __init__(self, arrays: str | dict[str, Any] = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arrays = _load_arrays(arrays)
        self.classes = _classes(self.arrays)
        self.num_classes = len(self.classes)

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """The number of class names; without names, one more than the highest training label."""
        return len(_classes(_load_arrays(options.arrays)))

    def has(self, part: PartName) -> bool:
        """Whether there are arrays for ``part``."""
        return any(name in self.arrays for name in _names(part, "images"))

    def load(self, part: PartName) -> Images:
        """The images of the part, uint8 ``(N, 3, H, W)``."""
        pixels, labels = _pixels(self.arrays, part), _labels(self.arrays, part)
        if len(pixels) != len(labels):
            raise UserError(f"--data.arrays: there are {len(pixels)} {part} images and {len(labels)} labels")
        if self.side is not None and pixels.shape[2:] != (self.side, self.side):
            pixels = torch.cat([square(chunk, self.side).to(torch.uint8) for chunk in torch.split(pixels, 256)])
        return Images(pixels, labels, self.classes)


def _load_arrays(arrays: str | dict[str, Any]) -> Mapping[str, Any]:
    """The arrays by name."""
    if isinstance(arrays, dict):
        return arrays
    if not arrays:
        raise UserError("--data.arrays: give the .npz file that has the images and labels")
    path = Path(arrays).expanduser().absolute()
    try:
        state = path.stat()
        return _read_npz(path, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"--data.arrays: cannot read {path}: {one_line(error)}") from error


# Cached as long as the file is unchanged, so that a sweep's worker reads it once for all of its trials.
@lru_cache(1)
def _read_npz(path: Path, modified: int, size: int) -> dict[str, Any]:
    content = np.load(path, allow_pickle=False)
    if not isinstance(content, Mapping):
        raise ValueError("it is not an .npz file")
    return dict(content)


def _names(part: PartName, kind: Literal["images", "labels"]) -> tuple[str, str]:
    return f"{part}_{kind}", f"{'x' if kind == 'images' else 'y'}_{part}"


def _tensor(arrays: Mapping[str, Any], part: PartName, kind: Literal["images", "labels"]) -> Tensor:
    names = _names(part, kind)
    if (name := next((name for name in names if name in arrays), None)) is None:
        raise UserError(f"--data.arrays: {' or '.join(names)} is missing; there are {', '.join(arrays) or 'no arrays'}")
    try:
        return torch.as_tensor(arrays[name])
    except (TypeError, ValueError) as error:
        raise UserError(f"--data.arrays: {name} is no array of numbers: {one_line(error)}") from error


def _labels(arrays: Mapping[str, Any], part: PartName) -> Tensor:
    """The labels of a part, int64 ``(N,)``."""
    labels = _tensor(arrays, part, "labels")
    if labels.is_floating_point() or labels.is_complex() or labels.ndim == 0 or labels.numel() != len(labels):
        raise UserError(f"--data.arrays: the {part} labels must be integers (N,) or (N, 1), not {_describe(labels)}")
    return labels.flatten().long()


def _pixels(arrays: Mapping[str, Any], part: PartName) -> Tensor:
    """The images of a part, uint8 ``(N, 3, H, W)``."""
    images = given = _tensor(arrays, part, "images")
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.movedim(3, 1)
    if given.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise UserError(
            f"--data.arrays: the {part} images must be uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 "
            f"channels, not {_describe(given)}"
        )
    return images.expand(-1, 3, -1, -1).contiguous()


def _classes(arrays: Mapping[str, Any]) -> tuple[str, ...]:
    names = arrays.get("classes")
    return class_names(None if names is None else list(names), _labels(arrays, "train"), "--data.arrays")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
