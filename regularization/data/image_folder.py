"""ImageFolder: one's own pictures, a folder a class."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from regularization.data import image_files
from regularization.data.datamodules import ImageData, Part
from regularization.data.image_files import DecodeError, ImageFiles
from regularization.data.preprocess import Preprocess
from regularization.data.readers import Images
from regularization.errors import UserError

SHOWN = 10  # files that can't be read, named in an error


class ImageFolder(ImageData):
    """One's own pictures, of any size: ``root/<class>/…``, or ``root/train/<class>/…`` with ``val`` or ``test`` beside.

    A picture's short side is resized to ``resize`` pixels and its centre kept; training takes a random square of
    ``image_size`` out of that, everything else the one in the middle. What there is no folder for is held out of the
    others, every class in proportion.

    Args:
        root: The folder; it has to be named.
        image_size: Height and width of what the network sees, in pixels.
        resize: Pixels that the short side is resized to; null for 8/7 of ``image_size``.
        test_size: Share of each class that is held out for the test where there is no folder ``test``; by the names of
            the files, so that a picture stays on its side whatever others come and go.
        memory_gb: Pictures are decoded once and kept; when the training, validation or test pictures need more than
            this, worker processes decode them for every batch instead.
        workers: How many; 0 decodes in the process itself, null takes one for each thread of PyTorch.
    """

    def __init__(
        self,
        root: str = "",
        image_size: int = 64,
        resize: int | None = None,
        test_size: float = 0.2,
        memory_gb: float = 4.0,
        workers: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        self.root = Path(root).expanduser()
        self.side = resize or round(image_size * 8 / 7)
        if self.side < image_size:
            raise UserError(f"--data.resize must be at least --data.image_size, {image_size}, not {resize}")
        self.test_size = test_size
        self.memory_gb = memory_gb
        if not 0 <= test_size < 1:
            raise UserError(f"--data.test_size must be at least 0 and below 1, not {test_size}")
        if workers is not None and workers < 0:
            raise UserError(f"--data.workers must not be negative, not {workers}")
        # A sweep shares the cores out by threads.
        self.workers = torch.get_num_threads() if workers is None else workers
        # Training cuts at random, and what is cut has its size already.
        self.augment.crop = image_size
        self.preprocess = Preprocess(**self.train_preprocess.settings(None) | {"resize": self.side})
        self.num_classes = len(classes_in(self._folder("train")))

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """The number of folders in ``root``, or in ``root/train``."""
        return len(classes_in(_folder(Path(options.root).expanduser(), "train")))

    def read(self, train: bool) -> Images | ImageFiles:
        """The training or the test pictures, at ``resize`` pixels.

        Raises:
            UserError: Naming the files that can't be read.
        """
        classes = classes_in(self._folder("train"))
        whole = self._folder("train")
        if not train and (folder := self._folder("test")) != whole:
            return self._read(*files_in(folder, classes), classes, "test pictures")
        paths, labels = files_in(whole, classes)
        if train and not self.val_size and (val := self._folder("val")) != whole:
            # Nothing is to be held out: a sweep's refit, for instance.
            more, of_more = files_in(val, classes)
            paths, labels = [*paths, *more], torch.cat([labels, of_more])
        if self._folder("test") == whole and not self.test_size and not train:
            raise UserError(f"{self.root} has no folder test, and --data.test_size is 0: there is nothing to test on")
        if self._folder("test") == whole and self.test_size:
            held = held_out([str(path.relative_to(whole)) for path in paths], labels, self.test_size)
            chosen = (~held if train else held).nonzero().flatten()
            paths, labels = [paths[place] for place in chosen.tolist()], labels[chosen]
        return self._read(paths, labels, classes, "pictures" if train else "test pictures")

    def setup(self, stage: str) -> None:
        """Also looks at the test pictures before training: nobody wants to hear of a damaged one when all is done."""
        super().setup(stage)
        if (
            stage == "fit"
            and self.test_set is None
            and (self.test_size or self._folder("test") != self._folder("train"))
        ):
            self.read(train=False)

    def describe(self) -> str:
        """Also says how the pictures are kept."""
        assert self.train_set is not None
        kept = "in memory" if isinstance(self.train_set[0], Images) else f"decoded for every batch by {self.workers}"
        return f"{super().describe()}, of {self.num_classes} classes, {kept}"

    def _folder(self, part: str) -> Path:
        return _folder(self.root, part)

    def _split(self, images: Images | ImageFiles) -> tuple[Part, Part | None]:
        if (folder := self._folder("val")) == self._folder("train") or not self.val_size:
            return super()._split(images)
        classes = classes_in(self._folder("train"))
        val = self._read(*files_in(folder, classes), classes, "validation pictures")
        return (images, torch.arange(len(images))), (val, torch.arange(len(val)))

    def _read(self, paths: list[Path], labels: Tensor, classes: Sequence[str], what: str) -> Images | ImageFiles:
        fits = len(paths) * 3 * self.side**2 <= self.memory_gb * 1e9
        # What a file was when it was read: a sweep's worker reads it once for all of its trials.
        stamps = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
        pixels = _decoded(stamps, self.side, fits, f"reading {what}")
        if pixels is not None:
            return Images(pixels, labels, tuple(map(image_files.printable, classes)))
        return ImageFiles(paths, self.side, labels, tuple(map(image_files.printable, classes)), self.workers)


def classes_in(folder: Path) -> list[str]:
    """The names of the classes, which are those of the folders in ``folder``, in their order.

    Raises:
        UserError: When there are not at least two.
    """
    if not folder.is_dir():
        raise UserError(f"--data.root: there is no folder {folder}")
    found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(found) < 2:
        raise UserError(
            f"--data.root: {folder} must hold a folder for each class, with its pictures in it; "
            f"it holds {f'only {found[0]}' if found else 'none'}"
        )
    if wrong := {"training", "validation", "valid", "testing"} & {name.lower() for name in found}:
        raise UserError(
            f"--data.root: {folder} has a folder {min(wrong)}: parts of the data are called train, val and test"
        )
    return found


def held_out(names: Sequence[str], labels: Tensor, share: float) -> Tensor:
    """Which of N files to hold out, bool ``(N,)``: those whose name, hashed to a number in 0 … 1, is below ``share``.

    So it is a function of each name alone; but of every class at least one is held out, and one is not.
    """
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:7] for name in names]
    number = torch.tensor([int.from_bytes(one) / 2**56 for one in hashes], dtype=torch.float64)
    held = number < share
    for label in set(labels.tolist()):
        own = (labels == label).nonzero().flatten()
        order = own[number[own].argsort()]
        held[order[0]] = True
        held[order[-1]] = False
    return held


def files_in(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    """The pictures of all ``classes`` in ``folder``, and their labels, int64 ``(N,)``.

    Raises:
        UserError: When a class has none, or ``folder`` has a class that is not among ``classes``.
    """
    present = classes_in(folder)
    if unknown := sorted(set(present) - set(classes)):
        raise UserError(f"{folder / unknown[0]}: there is no class {unknown[0]} among the training pictures")
    found = [(path, label) for label, name in enumerate(classes) for path in image_files.find(folder / name)]
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    if empty := [name for name, count in zip(classes, counts, strict=True) if name in present and not count]:
        raise UserError(f"{folder / empty[0]} has no pictures in it")
    return [path for path, _ in found], labels


def _folder(root: Path, part: str) -> Path:
    """Where the pictures of ``part`` (train, val, test) are; where it has no folder of its own, that of all."""
    if root == Path():
        raise UserError("--data.root: name the folder that has your pictures, a folder for each class inside")
    # A class may be called train: then it holds pictures, no folders.
    train = root / "train"
    whole = train if train.is_dir() and any(path.is_dir() for path in train.iterdir()) else root
    return root / part if whole != root and (root / part).is_dir() else whole


@lru_cache(3)
def _decoded(stamps: Sequence[tuple[Path, int, int]], side: int, keep: bool, what: str) -> Tensor | None:
    """All pictures, uint8 ``(N, 3, side, side)``; None where they are not kept, but every one can be read."""
    pixels = torch.empty((len(stamps) if keep else 0, 3, side, side), dtype=torch.uint8)
    refused = []
    for place, picture in enumerate(image_files.read_all([path for path, _, _ in stamps], side, what)):
        if isinstance(picture, DecodeError):
            refused.append(picture)
        elif keep:
            pixels[place] = picture
    if refused:
        named = "; ".join(str(one) for one in refused[:SHOWN])
        more = f"; and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise UserError(
            f"{len(refused)} of {len(stamps)} pictures can't be read.\nMend or remove them to train: {named}{more}"
        )
    return pixels if keep else None
