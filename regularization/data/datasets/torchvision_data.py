"""TorchvisionData: the data sets of torchvision, and classes with the same interface."""

import dataclasses
import inspect
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.datasets
from jsonargparse import Namespace
from PIL import Image
from torch.utils.data import Dataset

from regularization.data.color import on_white, to_upright_rgb
from regularization.data.datasets.parts import PartName, PartsData, class_names, one_line, side_of, stack_images
from regularization.data.readers import Images, download_lock, progress_bars_on_terminals
from regularization.errors import UserError, did_you_mean

# The values of an argument ``split`` for each part; the first one that a class accepts is used.
_SPLITS: dict[PartName, tuple[str, ...]] = {
    "train": ("train", "trainval", "train-standard"),
    "val": ("val", "valid"),
    "test": ("test", "val", "valid"),
}


class TorchvisionData(PartsData):
    """A data set of torchvision or a class with its interface: FashionMNIST, SVHN, Flowers102, MedMNIST's, your own.

    Its items are pairs of a PIL image, grey or in colour, and a label. The argument ``train=`` or ``split=`` of its
    constructor selects the part; a class that has neither argument, such as EuroSAT, has no test images. If there are
    both validation and test images, the validation images are used for validation. The data set is downloaded if absent
    and read into memory.

    Args:
        dataset: The class: a name of ``torchvision.datasets`` or a class path; required.
        root: Folder with its files, for downloads too.
        options: Other arguments of the class, such as ``{split: letters}`` for EMNIST.
        memory_gb: Images of one part that need more memory than this are refused.
    """

    def __init__(
        self,
        dataset: type[Dataset[Any]] | str = "",
        root: str = "data",
        options: dict[str, Any] | None = None,
        memory_gb: float = 4.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = Source.of(dataset, root, options)
        self.memory_gb = memory_gb
        self.num_classes = len(self.load("train").classes)

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """The number of classes that the data set names; without names, one more than the highest label."""
        source = Source.of(options.dataset, options.root, options.options)
        side = side_of(options.image_size, options.resize)
        return len(_read(source, "train", side, options.memory_gb).classes)

    def has(self, part: PartName) -> bool:
        """Whether the data set has ``part``."""
        return _has(self.source, part)

    def load(self, part: PartName) -> Images:
        """The images of the part, uint8 ``(N, 3, H, W)``."""
        return _read(self.source, part, self.side, self.memory_gb)

    def describe(self) -> str:
        """One line for users: the name of the data set and the numbers of images."""
        return super().describe().replace(type(self).__name__, self.source.dataset.__name__, 1)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set class and the arguments that all of its parts share.

    Attributes:
        dataset: The class.
        root: Folder with its files.
        options: Names and values of its other arguments.
    """

    dataset: Any
    root: Path
    options: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, dataset: type[Dataset[Any]] | str, root: str, options: Mapping[str, Any] | None) -> "Source":
        """Finds the class and checks the names of the arguments."""
        found = _find_class(dataset)
        known = _parameters(found)
        ours = {"root", "train", "download", "transform", "target_transform"}
        ours |= set() if "train" in known else {"split"}
        values = {}
        for name, value in (options or {}).items():
            if name in ours or name not in known:
                reason = "cannot be given" if name in ours else f"is unknown{did_you_mean(name, known - ours)}"
                raise UserError(f"--data.options: the argument {name} of {found.__name__} {reason}")
            values[name] = tuple(value) if isinstance(value, list) else value
        parameters = inspect.signature(found).parameters.values()
        required = [
            item.name for item in parameters if item.default is item.empty and item.kind is not item.VAR_KEYWORD
        ]
        if missing := [name for name in required if name not in ours | values.keys()]:
            raise UserError(f"--data.options: {found.__name__} needs a value for {' and '.join(missing)}")
        return cls(found, Path(root).expanduser().absolute(), tuple(sorted(values.items())))

    def candidates(self, part: PartName) -> list[dict[str, Any]]:
        """The constructor arguments that may select ``part``; empty if there is no such part."""
        known = _parameters(self.dataset)
        if "train" in known:
            return [] if part == "val" else [{"train": part == "train"}]
        if "split" in known:
            return [{"split": split} for split in _SPLITS[part]]
        return [{}] if part == "train" else []

    def open(self, part: PartName) -> Any:
        """The data set of the part, downloaded if it is absent.

        Raises:
            UserError: When there is no such part, or it cannot be read or downloaded.
        """
        reason: ValueError | None = None
        for arguments in self.candidates(part):
            try:
                return self.create(**arguments)
            except ValueError as error:  # the class has no such split, or an option has no such value
                reason = error
        raise UserError(f"--data.dataset: {self.dataset.__name__} has no {part} images: {one_line(reason)}") from reason

    def create(self, **part: Any) -> Any:
        """The data set with the argument that names the part, downloaded if it is absent."""
        known = _parameters(self.dataset)
        arguments = {**dict(self.options), **part, **({"root": str(self.root)} if "root" in known else {})}
        try:
            return self.dataset(**arguments)
        except (OSError, RuntimeError) as error:
            if "download" not in known:
                raise UserError(
                    f"{self.dataset.__name__} cannot be read from {self.root}: {one_line(error)}"
                ) from error
        existed = self.root.exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with download_lock(self.root), progress_bars_on_terminals(), redirect_stdout(sys.stderr):
                return self.dataset(**arguments, download=True)
        except (OSError, RuntimeError) as error:
            if not existed and not any(path.is_file() for path in self.root.rglob("*")):
                shutil.rmtree(self.root, ignore_errors=True)
            raise UserError(
                f"{self.dataset.__name__} is not in {self.root} and could not be downloaded ({one_line(error)}).\n"
                "Put its files there, or give the folder that has them with --data.root"
            ) from error


def _find_class(dataset: type[Any] | str) -> Any:
    if isinstance(dataset, str):
        names = {name: getattr(torchvision.datasets, name) for name in torchvision.datasets.__all__}
        if dataset not in names:
            example = "give the class, such as FashionMNIST"
            reason = f"there is no data set {dataset}{did_you_mean(dataset, names)}" if dataset else example
            raise UserError(f"--data.dataset: {reason}")
        dataset = names[dataset]
    if dataset.__module__ == torchvision.datasets.LSUN.__module__:
        # A checkpoint may name any class of torchvision, and this one reads a pickle from the working directory.
        raise UserError("--data.dataset: LSUN is not supported, because it reads a pickle, which could run code")
    return dataset


@lru_cache(16)
def _parameters(dataset: Any) -> frozenset[str]:
    """The names of the arguments of a class, also of those that it passes on to its base classes."""
    names: set[str] = set()
    for base in dataset.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base).parameters.values()
            names |= {parameter.name for parameter in parameters}
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
    return frozenset(names)


@lru_cache(16)
def _has(source: Source, part: PartName) -> bool:
    if part != "val" or not source.candidates("val"):
        return bool(source.candidates(part))
    # If a class has no test images, those that it calls val are used for the test.
    return _accepts(source, "test") and any(_accepts(source, split) for split in _SPLITS["val"])


def _accepts(source: Source, split: str) -> bool:
    try:
        source.create(split=split)
    except ValueError:
        return False
    return True


# Cached, because the trials of a sweep are forked from a process that has read the images.
@lru_cache(3)
def _read(source: Source, part: PartName, side: int | None, memory_gb: float) -> Images:
    name, dataset = f"{part} images of {source.dataset.__name__}", source.open(part)
    labels = torch.empty(len(dataset), dtype=torch.int64)

    def images() -> Iterator[Image.Image]:
        for index in range(len(dataset)):
            image, labels[index] = _checked(dataset[index], name)
            yield image

    pixels = stack_images(images(), len(dataset), side, memory_gb, name)
    # MedMNIST has the names in a dict.
    names = getattr(dataset, "classes", None) or getattr(dataset, "info", {}).get("label")
    return Images(pixels, labels, class_names(names, labels, f"--data.dataset {source.dataset.__name__}"))


def _checked(item: Any, name: str) -> tuple[Image.Image, int]:
    """Checks an item of the data set; returns its image in RGB and its label."""
    if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Image.Image)):
        raise UserError(f"the {name} must be pairs of a PIL image and a label, not {one_line(item)}")
    label = np.asarray(item[1])
    if label.size != 1 or label.dtype.kind not in "iu":
        raise UserError(f"the {name} must have one integer each as their label, not {one_line(item[1])}")
    try:
        return on_white(to_upright_rgb(item[0])), int(label.item())
    except ValueError as error:
        raise UserError(f"the {name} cannot be used: {error}") from error
