"""Reads a whole data set into one uint8 tensor; CIFAR's pickles are opened only after their MD5 matched."""

import fcntl
import hashlib
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_and_extract_archive

from regularization.errors import UserError

LOCK = ".downloading"
Sample = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Images:
    """A labelled set of images in memory.

    Attributes:
        pixels: uint8 ``(N, 3, H, W)``.
        labels: int64 ``(N,)``, each in ``0 … len(classes) - 1``.
        classes: Name of each class.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    workers = 0  # processes that make batches: these need none

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
    """Fetches and unpacks torchvision's archive of ``source`` into ``root``, unless every file is there already.

    Of several processes and machines that share ``root`` one does it, and the others wait.

    Raises:
        UserError: When it can't be downloaded or unpacked; says where it looked and which file to put there.
    """
    folder = root / source.base_folder
    names = [name for name, _ in _files(source)]

    def complete() -> bool:
        return all((folder / name).is_file() for name in names)

    if complete() and not (root / LOCK).exists():
        return
    existed = root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(root), progress_bars_on_terminals():
            if not complete():
                download_and_extract_archive(source.url, str(root), filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError) as error:
        if not existed and root.is_dir() and not any(root.iterdir()):
            root.rmdir()
        raise UserError(
            f"{source.__name__} is not in {folder} and could not be downloaded ({error}).\n"
            f"Put {source.filename} into {root} (it is at {source.url}), or name the folder that has it with "
            "--data.root; configs/quickstart.yaml needs no download."
        ) from error


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Waits for whoever is downloading into ``root``; the lock is gone when nobody is."""
    with ExitStack() as held:
        held.callback(_remove, root / LOCK)
        # Where nothing can be written or locked, one can only go on without.
        with suppress(OSError):
            fcntl.flock(held.enter_context((root / LOCK).open("a")), fcntl.LOCK_EX)
        yield


@contextmanager
def progress_bars_on_terminals() -> Iterator[None]:
    """Keeps the progress bars that libraries draw on stderr out of files and pipes."""
    if sys.stderr.isatty():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        yield


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def read_cifar(source: type[CIFAR10], root: Path, train: bool) -> Images:
    """The training (50,000) or test (10,000) images of CIFAR-10 or CIFAR-100 (Krizhevsky 2009), 32×32.

    Raises:
        UserError: When a file is missing, or its MD5 is not the published one.
    """
    return _read_cifar(cast(Any, source), root, train)


# The trials of a sweep are forked from a process that has read the images.
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

    scikit-learn names no test set, so a stratified fifth (360 images, always the same) is ours.
    """
    # Imported here: scikit-learn takes most of a second, which training on CIFAR need not pay.
    from sklearn.datasets import load_digits

    digits = load_digits()
    shades = torch.from_numpy(digits.images)
    pixels = (shades * (255 / 16)).round().to(torch.uint8)[:, None].repeat(1, 3, 1, 1)
    labels = torch.from_numpy(digits.target).long()
    kept, held = stratified_split(labels, 360, seed=0)
    chosen = kept if train else held
    return Images(pixels[chosen], labels[chosen], tuple(str(name) for name in digits.target_names))


def stratified_split(labels: Tensor, held_out: int | float, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices (kept, held out) that leave every class its share.

    Args:
        labels: int64 ``(N,)``.
        held_out: How many to hold out, or which fraction.
        seed: The split is a function of the labels and this alone.

    Raises:
        UserError: When there is no such split.
    """
    from sklearn.model_selection import train_test_split

    try:
        kept, held = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels, random_state=seed)
    except ValueError as error:
        raise UserError(f"can't hold {held_out} of {len(labels)} images out: {error}") from error
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(held))


def _files(source: type[CIFAR10]) -> list[tuple[str, str]]:
    """(name, MD5) of every file of the data set, as torchvision publishes them."""
    batches = [(name, md5) for name, md5 in [*source.train_list, *source.test_list]]
    return [*batches, (source.meta["filename"], source.meta["md5"])]


def _read_pickle(path: Path, md5: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    # The bytes that were checked are the bytes that are unpickled: a pickle from elsewhere could run code.
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise UserError(
            f"{path} is damaged or not the published file (its MD5 is {found}, it should be {md5}).\n"
            "Delete it and run again to download it afresh."
        )
    batch: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return batch
