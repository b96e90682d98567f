"""ImageFolder: the user's own images, with one folder per class."""

import hashlib
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from torch import Tensor
from torch.utils.data import DataLoader

from regularization.data import image_files
from regularization.data.folder_layout import classes_in, files_in, find_layout
from regularization.data.image_data import ImageData, Part
from regularization.data.image_files import DecodeError, ImageFiles
from regularization.data.image_search import summarize
from regularization.data.preprocess import Preprocess
from regularization.data.readers import Images
from regularization.data.sampling import EpochSampler
from regularization.errors import UserError, printable

# How many unreadable files an error lists, and up to how many classes are listed with their counts.
MAX_ERRORS_SHOWN = 10
MAX_CLASSES_SHOWN = 10
# Warn if the largest class has more than this many times as many images as the smallest one.
IMBALANCE = 5


class ImageFolder(ImageData):
    """Images of any size: ``root/<class>/…``, or ``root/train/<class>/…``, with optional folders ``val`` and ``test``.

    The short side of an image is resized to ``resize`` pixels, and the central square is cropped. Training crops a
    random square of ``image_size`` pixels from it, evaluation the central one. If there is no folder ``val`` or
    ``test``, those images are held out of the training images, the same share of every class. Other usual names of
    these folders, such as ``Training`` and ``valid``, are also recognized.

    Args:
        root: The folder; required.
        image_size: Height and width of the network's input, in pixels.
        resize: Length in pixels that the short side is resized to; null for 8/7 of ``image_size``.
        test_size: Share of each class that is held out for the test if there is no folder ``test``. The choice depends
            on the file names: for each image that is added or removed, at most one other image changes its part.
        memory_gb: Images are decoded once and kept in memory. If the training, validation or test images need more than
            this, worker processes decode them for every batch instead.
        workers: Number of worker processes; 0 decodes in the main process, null takes one per thread of PyTorch.
        class_weights: ``balanced`` weights the training loss of each image by N / (C · N_c), where N is the number of
            training images and N_c that of its class, so that each of the C classes has the same share of the loss.
        balanced_sampling: Draw training images with replacement, so that each class is drawn equally often. The number
            of images per epoch does not change.
    """

    def __init__(
        self,
        root: str = "",
        image_size: int = 64,
        resize: int | None = None,
        test_size: float = 0.2,
        memory_gb: float = 4.0,
        workers: int | None = None,
        class_weights: Literal["balanced"] | None = None,
        balanced_sampling: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, **kwargs)
        self.layout = find_layout(root)
        self.side = resize or round(image_size * 8 / 7)
        if self.side < image_size:
            raise UserError(f"--data.resize must be at least --data.image_size, {image_size}, not {resize}")
        self.test_size = test_size
        self.memory_gb = memory_gb
        if not 0 <= test_size < 1:
            raise UserError(f"--data.test_size must be at least 0 and below 1, not {test_size}")
        if workers is not None and workers < 0:
            raise UserError(f"--data.workers must be at least 0, not {workers}")
        if class_weights and balanced_sampling:
            raise UserError("--data.class_weights and --data.balanced_sampling have the same purpose: use one of them")
        self.class_weights, self.balanced_sampling = class_weights, balanced_sampling
        # A sweep divides the CPU cores among its trials by the number of threads.
        self.workers = torch.get_num_threads() if workers is None else workers
        # In training the random crop gives the size, so that no resize follows.
        self.augment.crop = image_size
        self.preprocess = Preprocess(**self.train_preprocess.settings(None) | {"resize": self.side})
        self.classes = classes_in(self.layout.train)
        self.num_classes = len(self.classes)
        self._left_out = {item.path: item for item in self.layout.unused}

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """The number of class folders."""
        return len(classes_in(find_layout(options.root).train))

    def read(self, train: bool) -> Images | ImageFiles:
        """The training or the test images, with a short side of ``resize`` pixels.

        Raises:
            UserError: When files cannot be read; the message names them.
        """
        layout = self.layout
        if not train and layout.test is not None:
            return self._read(*self._files(layout.test), "test images")
        paths, labels = self._files(layout.train)
        if train and not self.val_size and layout.val is not None:
            # Nothing is to be held out, as in the refit of a sweep: the validation images are trained on.
            val_paths, val_labels = self._files(layout.val)
            paths, labels = [*paths, *val_paths], torch.cat([labels, val_labels])
        if layout.test is None and not self.test_size and not train:
            raise UserError(
                f"{layout.train} has no folder test, and --data.test_size is 0: there are no images to test on"
            )
        if layout.test is None and self.test_size:
            held = held_out([str(path.relative_to(layout.train)) for path in paths], labels, self.test_size)
            indices = (~held if train else held).nonzero().flatten()
            paths, labels = [paths[index] for index in indices.tolist()], labels[indices]
        return self._read(paths, labels, "images" if train else "test images")

    def setup(self, stage: str) -> None:
        """Reads and splits the images; before training, also reads the test images, to find damaged files early."""
        super().setup(stage)
        if stage == "fit" and self.test_set is None and (self.test_size or self.layout.test is not None):
            self.read(train=False)
        if stage == "fit":
            counts = self._class_counts()
            if self.class_weights:
                self._check_no_class_is_empty(counts)
                self.loss_weights = counts.sum() / (len(counts) * counts.float())
            elif not self.balanced_sampling:
                self._warn_of_imbalance(counts)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training images; a resumed epoch has the remaining ones only."""
        loader = super().train_dataloader()
        if self.balanced_sampling and self.train_set is not None:
            assert isinstance(loader.sampler, EpochSampler)
            images, subset = self.train_set
            loader.sampler.weights = 1 / self._class_counts()[images.labels[subset]]
        return loader

    def describe(self) -> str:
        """For users: the number of images and classes, where images are kept, class counts, and what is left out."""
        assert self.train_set is not None
        in_memory = isinstance(self.train_set[0], Images)
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        where = "in memory" if in_memory else f"decoded for every batch by {workers}"
        first = f"{super().describe()}, {self.num_classes} classes, {where}"
        counts = sorted(zip(self._class_counts().tolist(), map(printable, self.classes), strict=True))
        shown = ", ".join(f"{name} {count:,}" for count, name in reversed(counts))
        if len(counts) > MAX_CLASSES_SHOWN:
            (low, least), (high, most) = counts[0], counts[-1]
            shown = f"{low:,} ({least}) to {high:,} ({most})"
        lines = [first, f"training images per class: {shown}", summarize(self._left_out.values())]
        return "\n".join(filter(None, lines))

    def _class_counts(self) -> Tensor:
        """The number of training images of each class, int64 ``(C,)``."""
        assert self.train_set is not None
        images, subset = self.train_set
        return torch.bincount(images.labels[subset], minlength=self.num_classes)

    def _check_no_class_is_empty(self, counts: Tensor) -> None:
        if not counts.min():
            name = printable(self.classes[int(counts.argmin())])
            raise UserError(
                f"--data.class_weights: class {name} has no training image, so its weight would be infinite; "
                "use a larger --data.subset"
            )

    def _warn_of_imbalance(self, counts: Tensor) -> None:
        least, most = int(counts.argmin()), int(counts.argmax())
        if counts[most] > IMBALANCE * counts[least]:
            (low, rare), (high, common) = (
                (int(counts[label]), printable(self.classes[label])) for label in (least, most)
            )
            warnings.warn(
                f"the classes are imbalanced: {common} has {high:,} training images, {rare} {low:,}. Judge by "
                "val_balanced_accuracy, and try --data.class_weights balanced or --data.balanced_sampling true",
                stacklevel=2,
            )

    def _files(self, folder: Path) -> tuple[list[Path], Tensor]:
        """The image files in ``folder`` and their labels; records the files that are left out."""
        paths, labels, left_out = files_in(folder, self.classes, complete=folder == self.layout.train)
        self._left_out |= {item.path: item for item in left_out}
        return paths, labels

    def _split(self, images: Images | ImageFiles) -> tuple[Part, Part | None]:
        if self.layout.val is None or not self.val_size:
            return super()._split(images)
        val = self._read(*self._files(self.layout.val), "validation images")
        return (images, torch.arange(len(images))), (val, torch.arange(len(val)))

    def _read(self, paths: list[Path], labels: Tensor, name: str) -> Images | ImageFiles:
        fits_memory = len(paths) * 3 * self.side**2 <= self.memory_gb * 1e9
        # Cached as long as the files are unchanged, so that a sweep's worker reads them once for all of its trials.
        stamps = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
        pixels = _decode(stamps, self.side, fits_memory, f"reading {name}")
        names = tuple(map(printable, self.classes))
        if pixels is not None:
            return Images(pixels, labels, names)
        return ImageFiles(paths, self.side, labels, names, self.workers)


def held_out(names: Sequence[str], labels: Tensor, share: float) -> Tensor:
    """Selects the files to hold out, bool ``(N,)``: of each class, the given share with the smallest name hashes.

    The number per class is rounded. Of a class with two or more files, at least one is held out and at least one is
    not. Adding a file moves the boundary between the two parts by at most one file, so the other files stay in their
    parts.
    """
    hashes = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest() for name in names]
    held = torch.zeros(len(names), dtype=torch.bool)
    for label in set(labels.tolist()):
        members = (labels == label).nonzero().flatten().tolist()
        members.sort(key=lambda index: hashes[index])
        count = max(1, round(share * len(members)))
        held[members[: min(count, len(members) - 1)]] = True
    return held


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
        UserError: When files cannot be read; the message names them.
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
