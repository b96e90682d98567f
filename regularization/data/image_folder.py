"""ImageFolder: the user's own images, with one folder per class."""

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
from regularization.errors import UserError, printable

# How many unreadable files an error names.
MAX_ERRORS_SHOWN = 10


class ImageFolder(ImageData):
    """Images of any size: ``root/<class>/…``, or ``root/train/<class>/…``, with optional folders ``val`` and ``test``.

    The short side of an image is resized to ``resize`` pixels, and the central square is cropped. Training takes a
    random square of ``image_size`` pixels from it, evaluation the central one. Without a folder ``val`` or ``test``,
    those images are held out of the others, the same share of every class.

    Args:
        root: The folder; required.
        image_size: Height and width of the network's input, in pixels.
        resize: Length in pixels that the short side is resized to; null for 8/7 of ``image_size``.
        test_size: Share of each class that is held out for the test if there is no folder ``test``. The choice depends
            on the file names, so that an image stays in its part when files are added or removed.
        memory_gb: Images are decoded once and kept in memory. If the training, validation or test images need more than
            this, worker processes decode them for every batch instead.
        workers: Number of worker processes; 0 decodes in the main process, null takes one per thread of PyTorch.
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
            raise UserError(f"--data.workers must be at least 0, not {workers}")
        # A sweep divides the CPU cores among its trials by the number of threads.
        self.workers = torch.get_num_threads() if workers is None else workers
        # In training the random crop gives the size, so that no resize follows.
        self.augment.crop = image_size
        self.preprocess = Preprocess(**self.train_preprocess.settings(None) | {"resize": self.side})
        self.num_classes = len(classes_in(self._folder("train")))

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """The number of class folders."""
        return len(classes_in(_folder(Path(options.root).expanduser(), "train")))

    def read(self, train: bool) -> Images | ImageFiles:
        """The training or the test images, with a short side of ``resize`` pixels.

        Raises:
            UserError: Naming the files that cannot be read.
        """
        train_folder, test_folder = self._folder("train"), self._folder("test")
        classes = classes_in(train_folder)
        if not train and test_folder != train_folder:
            return self._read(*files_in(test_folder, classes), classes, "test images")
        paths, labels = files_in(train_folder, classes)
        if train and not self.val_size and (val_folder := self._folder("val")) != train_folder:
            # Nothing is to be held out, as in the refit of a sweep: the validation images are trained on.
            val_paths, val_labels = files_in(val_folder, classes)
            paths, labels = [*paths, *val_paths], torch.cat([labels, val_labels])
        if test_folder == train_folder and not self.test_size and not train:
            raise UserError(
                f"{self.root} has no folder test, and --data.test_size is 0: there are no images to test on"
            )
        if test_folder == train_folder and self.test_size:
            held = held_out([str(path.relative_to(train_folder)) for path in paths], labels, self.test_size)
            indices = (~held if train else held).nonzero().flatten()
            paths, labels = [paths[index] for index in indices.tolist()], labels[indices]
        return self._read(paths, labels, classes, "images" if train else "test images")

    def setup(self, stage: str) -> None:
        """Reads and splits the images; before training also the test images, so that damaged files are found early."""
        super().setup(stage)
        has_test = self.test_size or self._folder("test") != self._folder("train")
        if stage == "fit" and self.test_set is None and has_test:
            self.read(train=False)

    def describe(self) -> str:
        """One line for users: the number of images and classes, and whether images are kept in memory."""
        assert self.train_set is not None
        in_memory = isinstance(self.train_set[0], Images)
        where = "in memory" if in_memory else f"decoded for every batch by {self.workers} workers"
        return f"{super().describe()}, {self.num_classes} classes, {where}"

    def _folder(self, part: str) -> Path:
        return _folder(self.root, part)

    def _split(self, images: Images | ImageFiles) -> tuple[Part, Part | None]:
        if (folder := self._folder("val")) == self._folder("train") or not self.val_size:
            return super()._split(images)
        classes = classes_in(self._folder("train"))
        val = self._read(*files_in(folder, classes), classes, "validation images")
        return (images, torch.arange(len(images))), (val, torch.arange(len(val)))

    def _read(self, paths: list[Path], labels: Tensor, classes: Sequence[str], name: str) -> Images | ImageFiles:
        fits_memory = len(paths) * 3 * self.side**2 <= self.memory_gb * 1e9
        # The cache holds for unchanged files: a sweep's worker reads them once for all of its trials.
        stamps = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
        pixels = _decode(stamps, self.side, fits_memory, f"reading {name}")
        names = tuple(map(printable, classes))
        if pixels is not None:
            return Images(pixels, labels, names)
        return ImageFiles(paths, self.side, labels, names, self.workers)


def classes_in(folder: Path) -> list[str]:
    """The names of the classes: the names of the folders in ``folder``, sorted.

    Raises:
        UserError: When there are fewer than two.
    """
    if not folder.is_dir():
        raise UserError(f"--data.root: there is no folder {folder}")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise UserError(
            f"--data.root: {folder} must contain one folder per class with its images; "
            f"it contains {f'only {names[0]}' if names else 'none'}"
        )
    if wrong := {"training", "validation", "valid", "testing"} & {name.lower() for name in names}:
        raise UserError(
            f"--data.root: {folder} has a folder {min(wrong)}: the parts of the data must be named train, val and test"
        )
    return names


def held_out(names: Sequence[str], labels: Tensor, share: float) -> Tensor:
    """Which of N files are held out, bool ``(N,)``: those whose name, hashed to a number in [0, 1), is below ``share``.

    So the choice for a file depends on its name only, with one exception: at least one file of each class is held out,
    and at least one is not.
    """
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:7] for name in names]
    numbers = torch.tensor([int.from_bytes(digest) / 2**56 for digest in hashes], dtype=torch.float64)
    held = numbers < share
    for label in set(labels.tolist()):
        members = (labels == label).nonzero().flatten()
        order = members[numbers[members].argsort()]
        held[order[0]] = True
        held[order[-1]] = False
    return held


def files_in(folder: Path, classes: Sequence[str]) -> tuple[list[Path], Tensor]:
    """The image files of all ``classes`` in ``folder``, and their labels, int64 ``(N,)``.

    Raises:
        UserError: When a class folder has no images, or its name is not among ``classes``.
    """
    present = classes_in(folder)
    if unknown := sorted(set(present) - set(classes)):
        raise UserError(f"{folder / unknown[0]}: there is no class {unknown[0]} among the training images")
    files = [(path, label) for label, name in enumerate(classes) for path in image_files.find(folder / name)]
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    if empty := [name for name, count in zip(classes, counts, strict=True) if name in present and not count]:
        raise UserError(f"{folder / empty[0]} contains no images")
    return [path for path, _ in files], labels


def _folder(root: Path, part: str) -> Path:
    """The folder with the images of ``part`` (train, val, test), or the one of train if that part has no folder."""
    if root == Path():
        raise UserError("--data.root: give the folder that contains one folder of images per class")
    # A class may be named train: then that folder contains images and no folders.
    train = root / "train"
    train_folder = train if train.is_dir() and any(path.is_dir() for path in train.iterdir()) else root
    return root / part if train_folder != root and (root / part).is_dir() else train_folder


@lru_cache(3)
def _decode(stamps: Sequence[tuple[Path, int, int]], side: int, keep: bool, description: str) -> Tensor | None:
    """Decodes all files once.

    Args:
        stamps: Path, modification time and size of each file.
        side: Height and width of the images, in pixels.
        keep: Whether to return the images, or only to check that all can be read.
        description: The text of the progress bar.

    Returns:
        uint8 ``(N, 3, side, side)``, or None.

    Raises:
        UserError: Naming the files that cannot be read.
    """
    pixels = torch.empty((len(stamps) if keep else 0, 3, side, side), dtype=torch.uint8)
    errors = []
    for index, image in enumerate(image_files.read_all([path for path, _, _ in stamps], side, description)):
        if isinstance(image, DecodeError):
            errors.append(image)
        elif keep:
            pixels[index] = image
    if errors:
        shown = "; ".join(map(str, errors[:MAX_ERRORS_SHOWN]))
        more = f"; and {len(errors) - MAX_ERRORS_SHOWN} more" if len(errors) > MAX_ERRORS_SHOWN else ""
        raise UserError(
            f"{len(errors)} of {len(stamps)} images cannot be read.\nRepair or remove them to train: {shown}{more}"
        )
    return pixels if keep else None
