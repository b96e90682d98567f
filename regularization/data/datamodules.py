"""The data sets that the program reads itself: CIFAR-10, CIFAR-100 and the handwritten digits of scikit-learn."""

import os
from pathlib import Path
from typing import Any

import torchvision.datasets

from regularization.data.image_data import ImageData
from regularization.data.readers import Images, download_cifar, read_cifar, read_digits


class CIFAR10(ImageData):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 10 classes, 32×32, downloaded if absent.

    Args:
        root: Folder of ``cifar-10-batches-py``, for downloads too; null takes $CIFAR10_ROOT, or ``data`` if unset.
    """

    num_classes = 10
    source: type[torchvision.datasets.CIFAR10] = torchvision.datasets.CIFAR10

    def __init__(self, root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root or os.environ.get(f"{self.source.__name__}_ROOT", "data")).expanduser()

    def prepare_data(self) -> None:
        """Downloads the archive unless its files are there already."""
        download_cifar(self.source, self.root)

    def read(self, train: bool) -> Images:
        """50,000 training or 10,000 test images, uint8 ``(N, 3, 32, 32)``; their MD5 is checked."""
        return read_cifar(self.source, self.root, train)


class CIFAR100(CIFAR10):
    """CIFAR-100 (Krizhevsky 2009): like CIFAR-10 with 100 classes.

    Args:
        root: Folder of ``cifar-100-python``, for downloads too; null takes $CIFAR100_ROOT, or ``data`` if unset.
    """

    num_classes = 100
    source = torchvision.datasets.CIFAR100


class Digits(ImageData):
    """scikit-learn's 1,797 handwritten digits, 8×8: 1,437 for training and validation, 360 for test; no download."""

    num_classes = 10

    def read(self, train: bool) -> Images:
        """1,437 training or 360 test images, uint8 ``(N, 3, 8, 8)``."""
        return read_digits(train)
