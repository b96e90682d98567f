"""Reads a whole data set into one uint8 tensor; CIFAR's pickles are loaded only if their MD5 is the published one."""

import hashlib
import math
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_and_extract_archive

from regularization.errors import UserError

LOCK = ".downloading"
# Pixels, labels and indices of a batch.
Sample = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Images:
    """A labelled set of images in memory.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)``.
        labels: int64 ``(N,)``, each in ``0 … len(classes) - 1``.
        classes: Name of each class.
        workers: Number of processes that read batches: 0, because the images are in memory.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    workers = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def to(self, device: torch.device) -> "Images":
        """The same images on ``device``."""
        return Images(self.pixels.to(device), self.labels.to(device), self.classes)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor) -> Sample:
        """The batch of the images at ``index``, int64 ``(B,)``: pixels ``(B, 3, H, W)``, labels ``(B,)``, ``index``."""
        return self.pixels[index], self.labels[index], index


def download_cifar(source: type[CIFAR10], root: Path) -> None:
    """Downloads torchvision's archive of ``source`` and unpacks it into ``root``, unless all files are there already.

    If several processes and machines share ``root``, one of them downloads and the others wait.

    Raises:
        UserError: When the archive cannot be downloaded or unpacked; the message says which file to put where.
    """
    folder = root / source.base_folder
    names = [name for name, _ in _files(source)]

    def is_complete() -> bool:
        return all((folder / name).is_file() for name in names)

    if is_complete() and not (root / LOCK).exists():
        return
    root_existed = root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with download_lock(root), progress_bars_on_terminals():
            if not is_complete():
                download_and_extract_archive(source.url, str(root), filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError) as error:
        if not root_existed and root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        raise UserError(
            f"{source.__name__} is not in {folder} and could not be downloaded ({error}).\n"
            f"Put {source.filename} (from {source.url}) into {root}, or give the folder that has it with --data.root; "
            "configs/quickstart.yaml needs no download."
        ) from error


@contextmanager
def download_lock(root: Path) -> Iterator[None]:
    """Waits while another process downloads into ``root``; the lock file is removed at the end."""
    with ExitStack() as stack:
        stack.callback(_remove, root / LOCK)
        # If the file system does not support locks or is not writable, the download continues without a lock.
        with suppress(OSError):
            stack.enter_context(FileLock(root / LOCK, fallback_to_soft=False))
        yield


@contextmanager
def progress_bars_on_terminals() -> Iterator[None]:
    """Hides the progress bars that libraries print to stderr, unless stderr is a terminal."""
    if sys.stderr.isatty():
        yield
        return
    with open(os.devnull, "w") as devnull, redirect_stderr(devnull):
        yield


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def read_cifar(source: type[CIFAR10], root: Path, train: bool) -> Images:
    """The training (50,000) or test (10,000) images of CIFAR-10 or CIFAR-100 (Krizhevsky 2009), 32×32.

    Raises:
        UserError: When a file is missing, or its MD5 is not the published one.
    """
    # The type of lru_cache does not accept a class as an argument.
    return _read_cifar(cast(Any, source), root.absolute(), train)


# Cached, because the trials of a sweep are forked from a process that has read the images.
@lru_cache(2)
def _read_cifar(source: type[CIFAR10], root: Path, train: bool) -> Images:
    folder = root / source.base_folder
    md5s = dict(_files(source))
    names = [name for name, _ in (source.train_list if train else source.test_list)]
    batches = [_read_pickle(folder / name, md5s[name]) for name in names]
    meta: dict[str, Any] = _read_pickle(folder / source.meta["filename"], source.meta["md5"])
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = [label for batch in batches for label in batch.get("labels") or batch["fine_labels"]]
    return Images(torch.from_numpy(pixels), torch.tensor(labels), tuple(meta[source.meta["key"]]))


def read_digits(train: bool) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8×8 in 17 shades of grey, as three equal channels of 0 … 255.

    scikit-learn defines no test set. A stratified fifth (360 images, always the same ones) serves as the test set.
    """
    # Imported here: scikit-learn takes most of a second, which other data sets do not need.
    from sklearn.datasets import load_digits

    digits = load_digits()
    shades = torch.from_numpy(digits.images)
    pixels = (shades * (255 / 16)).round().to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target).long()
    train_indices, test_indices = stratified_split(labels, 360, seed=0)
    indices = train_indices if train else test_indices
    return Images(pixels[indices], labels[indices], tuple(str(name) for name in digits.target_names))


def stratified_split(
    labels: Tensor, held_out: int | float, seed: int, classes: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Splits a data set so that each class has the same share on both sides.

    Args:
        labels: int64 ``(N,)``.
        held_out: The number of images to hold out, or their fraction.
        seed: The split depends on the labels and this seed only.
        classes: The names of the classes, for messages.

    Returns:
        The sorted indices of the images that are kept, and of those that are held out.

    Raises:
        UserError: When the labels cannot be split like this.
    """
    from sklearn.model_selection import train_test_split

    _check_split(labels, held_out, classes)
    indices = np.arange(len(labels))
    try:
        kept, held = train_test_split(indices, test_size=held_out, stratify=labels, random_state=seed)
    except ValueError as error:
        raise UserError(f"cannot hold out {held_out} of {len(labels)} images: {error}") from error
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(held))


def _check_split(labels: Tensor, held_out: int | float, classes: Sequence[str]) -> None:
    """Rejects splits that scikit-learn would reject, with a message that names the classes."""
    counts = {label: count for label, count in enumerate(torch.bincount(labels).tolist()) if count}
    if rare := [classes[label] if classes else str(label) for label, count in counts.items() if count == 1]:
        raise UserError(
            f"too few images of {', '.join(rare)}: only 1 is left to train and validate with.\nEach class needs at "
            "least 2, and 3 if test images are held out too"
        )
    size = math.ceil(held_out * len(labels)) if isinstance(held_out, float) else held_out
    if not len(counts) <= size <= len(labels) - len(counts):
        change = "raise" if size < len(counts) else "lower"
        raise UserError(
            f"cannot hold out {held_out} of {len(labels)} images with {len(counts)} classes: {change} --data.val_size, "
            "so that each class is on both sides"
        )


def _files(source: type[CIFAR10]) -> list[tuple[str, str]]:
    """(name, MD5) of every file of the data set, as torchvision publishes them."""
    batches = [(name, md5) for name, md5 in [*source.train_list, *source.test_list]]
    return [*batches, (source.meta["filename"], source.meta["md5"])]


def _read_pickle(path: Path, md5: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    # Check exactly the bytes that are unpickled, because a pickle from another source could run code.
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise UserError(
            f"{path} is damaged or not the published file (its MD5 is {actual}, not {md5}).\n"
            "Delete it and run the command again to download it."
        )
    batch: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return batch
