"""PartsData: data sets that provide training images and, optionally, validation and test images."""

import dataclasses
import math
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from regularization.data import image_files
from regularization.data.image_data import ImageData, Part
from regularization.data.image_files import ImageFiles
from regularization.data.preprocess import Preprocess
from regularization.data.readers import Images, stratified_split
from regularization.errors import UserError

PartName = Literal["train", "val", "test"]


class PartsData(ImageData):
    """Base class of data sets that provide training images and, optionally, validation and test images.

    Missing validation or test images are held out of the training images, the same share of every class. Sizes are
    handled as by ``ImageFolder``: with ``image_size``, the short side is resized to ``resize`` pixels and the central
    square is cropped. Training crops a random square of ``image_size`` pixels from it, evaluation the central one.

    Args:
        image_size: Height and width of the network's input, in pixels; null if all images have the same size already.
        resize: Length in pixels that the short side is resized to; null for 8/7 of ``image_size``.
        test_size: Share of each class that is held out for the test if the data set has no test images.
    """

    def __init__(
        self, image_size: int | None = None, resize: int | None = None, test_size: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        self.side = side_of(image_size, resize)
        if not 0 < test_size < 1:
            raise UserError(f"--data.test_size must be between 0 and 1, not {test_size}")
        self.test_size = test_size
        if image_size is not None:
            # In training the random crop gives the size, so that no resize follows.
            self.augment.crop = image_size
            self.preprocess = Preprocess(**self.train_preprocess.settings(None) | {"resize": self.side})

    @abstractmethod
    def has(self, part: PartName) -> bool:
        """Whether the data set provides images for ``part``."""

    @abstractmethod
    def load(self, part: PartName) -> Images:
        """The images that the data set provides for ``part``."""

    def read(self, train: bool) -> Images:
        """The training or the test images."""
        if not train and self.has("test"):
            return self._with_classes(self.load("test"))
        images = self.load("train")
        if not self.has("test"):
            kept, held_out = stratified_split(images.labels, self.test_size, seed=0)
            indices = kept if train else held_out
            images = Images(images.pixels[indices], images.labels[indices], images.classes)
        if train and not self.val_size and self.has("val"):
            # Nothing is to be held out, as in the refit of a sweep: the validation images are trained on.
            val = self._with_classes(self.load("val"))
            _check_same_size(images, val)
            labels = torch.cat([images.labels, val.labels])
            images = Images(torch.cat([images.pixels, val.pixels]), labels, images.classes)
        return images

    def _split(self, images: Images | ImageFiles) -> tuple[Part, Part | None]:
        if not self.val_size or not self.has("val"):
            return super()._split(images)
        val = self._with_classes(self.load("val"))
        return (images, torch.arange(len(images))), (val, torch.arange(len(val)))

    def _with_classes(self, images: Images) -> Images:
        """Validation or test images with the classes of the training images."""
        classes = self.load("train").classes
        if (highest := int(images.labels.max())) >= len(classes):
            raise UserError(
                f"there is an image of class {highest}, and the training images have {len(classes)} classes"
            )
        return dataclasses.replace(images, classes=classes)


def side_of(image_size: int | None, resize: int | None) -> int | None:
    """Length in pixels that the short side of images is resized to, None if it is kept."""
    if image_size is None and resize is not None:
        raise UserError("--data.resize needs --data.image_size")
    side = image_size and (resize or round(image_size * 8 / 7))
    if side and image_size and side < image_size:
        raise UserError(f"--data.resize must be at least --data.image_size, {image_size}, not {resize}")
    return side


def _check_same_size(one: Images, other: Images) -> None:
    if one.shape != other.shape:
        raise UserError("the training and validation images have different sizes: give --data.image_size, such as 64")


def stack_images(images: Iterable[Image.Image], count: int, side: int | None, memory_gb: float, name: str) -> Tensor:
    """RGB images as uint8 ``(count, 3, H, W)``; on a terminal it shows a progress bar.

    Args:
        images: The images.
        count: Number of images.
        side: Length in pixels to which the short side is resized, before the central square is cropped; None keeps the
            size of the images.
        memory_gb: Maximum memory of the result, in GB.
        name: Description of the images, for messages.

    Raises:
        UserError: When the images have different sizes or need more memory than ``memory_gb``.
    """
    pixels = torch.empty(0)
    shown = track(images, f"reading {name}", total=count, transient=True, disable=not sys.stdout.isatty())
    for index, original in enumerate(shown):
        image = original if side is None else image_files.square(original, side)
        if index == 0:
            pixels = _allocate((count, 3, image.height, image.width), memory_gb, name)
        if pixels.shape[2:] != (image.height, image.width):
            raise UserError(f"the {name} have different sizes: give --data.image_size, such as 64")
        pixels[index] = torch.from_numpy(np.array(image)).movedim(-1, 0)
    return pixels


def _allocate(shape: tuple[int, ...], memory_gb: float, name: str) -> Tensor:
    if (needed := math.prod(shape) / 1e9) > memory_gb:
        raise UserError(f"the {name} need {needed:.1f} GB: raise --data.memory_gb, or give a smaller --data.image_size")
    return torch.empty(shape, dtype=torch.uint8)


def class_names(names: Any, labels: Tensor, where: str) -> tuple[str, ...]:
    """The names of the classes, from a list or from a dict by label; numbers if there are no names.

    Raises:
        UserError: When the labels, int64 ``(N,)``, do not match the names; the message begins with ``where``.
    """
    if not len(labels):
        raise UserError(f"{where}: there are no training images")
    lowest, highest = int(labels.min()), int(labels.max())
    if isinstance(names, Mapping):
        by_label = all(str(label).isdecimal() for label in names)
        names = [names[label] for label in (sorted(names, key=int) if by_label else names)]
    values = range(highest + 1) if names is None else names
    # A class of ImageNet has several names.
    classes = tuple(", ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in values)
    if lowest < 0 or highest >= len(classes) or len(classes) < 2:
        raise UserError(
            f"{where}: the labels must be below the number of classes and at least 0; they are from {lowest} to "
            f"{highest}, and there are {len(classes)} classes"
        )
    return classes


def one_line(text: object) -> str:
    """The first 200 characters of a text, without line breaks."""
    return " ".join(str(text).split())[:200]
