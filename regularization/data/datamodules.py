"""LightningDataModules: they hold uint8 images in memory and hand out batches that are ready for the network."""

import os
import warnings
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision.datasets
from jsonargparse import Namespace
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from regularization.data.augment import Augment, PaddingMode
from regularization.data.image_files import ImageFiles
from regularization.data.preprocess import Preprocess
from regularization.data.readers import Images, download_cifar, read_cifar, read_digits, stratified_split
from regularization.data.sampling import Batch, EpochSampler, make_loader
from regularization.errors import UserError

RGB = tuple[float, float, float]
# Images, and those of them that are meant, int64 ``(N,)``.
Part = tuple[Images | ImageFiles, Tensor]


class ImageData(LightningDataModule, ABC):
    """What every data set here shares: the split, the order of batches, augmentation and preprocessing.

    Args:
        batch_size: Images a training batch, over all devices together.
        eval_batch_size: Images a batch in validation and test.
        val_size: Images of the training set held out for validation, as a number or a fraction, every class in
            proportion. 0 validates on the test set, as the seed did; the test set is then no longer a test. null
            holds nothing out and does not validate.
        split_seed: Seed of that split, apart from all other seeds, so that runs can be compared.
        image_size: Height and width the images are resized to, in pixels; null keeps their own.
        mean: Mean of the channels that is subtracted, on the scale 0 to 1; null for 0.5, or what the weights were
            trained with that ``model.weights`` names.
        std: Standard deviation of the channels that is divided by, likewise.
        early_size: Height and width that training images are resized to at first, in pixels, which takes less time;
            null for image_size throughout.
        early_share: Share of the training's steps with early_size.
        flip: Mirror training images left to right with probability 1/2; ``alternating`` mirrors a half of them in even
            epochs, the other half in odd ones.
        crop_padding: Shift training images by up to this many pixels; 0 does not.
        padding_mode: What is shifted in: ``constant`` is black, ``reflect`` the image mirrored at its edge.
        cutout: Side in pixels of a square that is blackened in each training image; 0 does not.
        on_device: Keep the images of memory on the device that trains, so that the processor has no work with them.
        seed: Seed of order and augmentation; null takes the one of ``seed_everything``.
    """

    num_classes: int

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int = 128,
        val_size: int | float | None = 0.1,
        split_seed: int = 0,
        image_size: int | None = None,
        mean: RGB | None = None,
        std: RGB | None = None,
        early_size: int | None = None,
        early_share: float = 0.5,
        flip: bool | Literal["alternating"] = False,
        crop_padding: int = 0,
        padding_mode: PaddingMode = "constant",
        cutout: int = 0,
        on_device: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        _check(batch_size > 0, f"--data.batch_size must be at least 1, not {batch_size}")
        _check(eval_batch_size > 0, f"--data.eval_batch_size must be at least 1, not {eval_batch_size}")
        _check(val_size is None or val_size >= 0, f"--data.val_size must not be negative, not {val_size}")
        _check(crop_padding >= 0, f"--data.crop_padding must not be negative, not {crop_padding}")
        _check(cutout >= 0, f"--data.cutout must not be negative, not {cutout}")
        for name, size in (("image_size", image_size), ("early_size", early_size)):
            _check(size is None or size > 0, f"--data.{name} must be at least 1, not {size}")
        _check(0 <= early_share <= 1, f"--data.early_share must lie in 0 to 1, not {early_share}")
        _check((mean is None) == (std is None), "--data.mean and --data.std go together: give both, or neither")
        mean, std = mean or (0.5, 0.5, 0.5), std or (0.5, 0.5, 0.5)
        _check(min(std) > 0, f"--data.std must be positive, not {std}")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.image_size = image_size
        self.split_seed = split_seed
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.augment = Augment(flip, crop_padding, cutout, self.seed, padding_mode=padding_mode)
        self.preprocess = self.train_preprocess = Preprocess(image_size, mean, std)
        self._early = None if early_size is None else Preprocess(early_size, mean, std)
        self.early_share = early_share
        self.on_device = on_device
        self._moved: dict[int, Images] = {}
        self.train_set: Part | None = None
        self.val_set: Part | None = None
        self.test_set: Part | None = None
        self._done = (0, 0)

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """How many classes the data with these ``options`` has, before any of it is read."""
        return cls.num_classes

    @abstractmethod
    def read(self, train: bool) -> Images | ImageFiles:
        """The whole training or test set."""

    def inference_config(self) -> dict[str, Any]:
        """What must be known to use a network that was trained on this: names of classes, arguments of Preprocess."""
        part = self.train_set or self.test_set
        assert part is not None, "setup() comes first"
        height, width = part[0].shape
        return {
            "classes": list(part[0].classes),
            "preprocess": self.preprocess.settings(height if height == width else None),
        }

    def setup(self, stage: str) -> None:
        """Reads what ``stage`` (fit, validate, test, predict) needs and has not been read, and splits it."""
        needs_test = stage in ("test", "predict") or self.val_size == 0
        if needs_test and self.test_set is None:
            images = self.read(train=False)
            self.test_set = images, torch.arange(len(images))
        if stage in ("fit", "validate") and self.train_set is None:
            self.train_set, self.val_set = self._split(self.read(train=True))

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training images; after a restore in mid-epoch, first those that were left."""
        return self._loader(self.train_set, self.batch_size, self.seed, self._done)

    def state_dict(self) -> dict[str, Any]:
        """The epoch, and how many of its images were gone through, 0 at its end."""
        assert self.trainer is not None
        assert self.train_set is not None
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        in_epoch = epochs.processed < epochs.started
        done = batches.processed * self.batch_size if in_epoch else 0
        if in_epoch and epochs.processed == self._done[0]:
            # What was gone through before may have been counted in batches of another size.
            done = self._done[1] + (batches.processed - self.batches_done()) * self.batch_size
        done = min(done, len(self.train_set[1]))
        return {"epoch": epochs.processed, "images_done": done, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on behind these images."""
        self._done = (state_dict["epoch"], state_dict["images_done"])
        then = state_dict.get("fingerprint")
        if then is not None and self.train_set is not None and then != self._fingerprint():
            warnings.warn(
                "the training images are not the checkpoint's: some that are held out now may have been trained on",
                stacklevel=2,
            )

    def _fingerprint(self) -> int:
        """Of which images are trained on, by their classes and places."""
        assert self.train_set is not None
        images, subset = self.train_set
        return zlib.crc32(torch.stack([subset, images.labels[subset]]).numpy().tobytes())

    def batches_done(self) -> int:
        """The batches that the restored images make up, at the batch size of now: all but those that are left."""
        assert self.train_set is not None
        size = len(self.train_set[1])
        return -(-size // self.batch_size) - -(-(size - min(self._done[1], size)) // self.batch_size)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the validation images in order; nothing where none are held out."""
        return [] if self.val_size is None else self._loader(self.val_set, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images in order."""
        return self._loader(self.test_set, self.eval_batch_size)

    def clean_dataloader(self) -> DataLoader[Any]:
        """Batches of a fixed part of the training images, a fiftieth and at least 256, in order and unaugmented."""
        assert self.train_set is not None, "setup() comes first"
        images, subset = self.train_set
        return self._loader((images, self._shuffled(subset)[: max(256, len(subset) // 50)]), self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: uint8 pixels to the network's input, float32 ``(B, 3, H, W)``, in training augmented."""
        pixels, preprocess = batch.images, self.preprocess
        if self.trainer is not None and self.trainer.training:
            pixels = self.augment(pixels, batch.indices, self.trainer.current_epoch)
            preprocess = self._training_preprocess(self.trainer)
        return batch._replace(images=preprocess.to(pixels.device)(pixels))

    def _shuffled(self, subset: Tensor) -> Tensor:
        return subset[torch.randperm(len(subset), generator=torch.Generator().manual_seed(self.split_seed))]

    def calibration_sample(self) -> Tensor:
        """Up to 1,000 training images at the size that training begins with, unaugmented, float32 ``(N, 3, H, W)``."""
        assert self.train_set is not None, "setup() comes first"
        images, subset = self.train_set
        # In one process or several: each sees the whole sample, so that all begin with the same weights.
        chosen = self._on_device(images)
        order = EpochSampler(self._shuffled(subset)[:1000], self.eval_batch_size, device=chosen.labels.device)
        pixels = torch.cat([batch.images for batch in make_loader(chosen, order)])
        sample: Tensor = (self._early or self.preprocess).to(pixels.device)(pixels)
        return sample

    def _training_preprocess(self, trainer: Trainer) -> Preprocess:
        if self._early is None:
            return self.train_preprocess
        steps = trainer.estimated_stepping_batches
        _check(steps < float("inf"), "--data.early_size needs to know the end: give --trainer.max_epochs or max_steps")
        return self._early if trainer.global_step < self.early_share * steps else self.train_preprocess

    def describe(self) -> str:
        """One line for people: the data set's name and how many images are for what."""
        val = "the test set" if self.val_size == 0 else "none" if self.val_size is None else f"{_count(self.val_set):,}"
        return f"{type(self).__name__}: {_count(self.train_set):,} images to train, {val} to validate"

    def _loader(
        self, part: Part | None, batch_size: int, seed: int | None = None, done: tuple[int, int] = (0, 0)
    ) -> DataLoader[Any]:
        assert part is not None, "setup() comes first"
        images, subset = self._on_device(part[0]), part[1]
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return make_loader(images, EpochSampler(subset, batch_size, seed, done, images.labels.device), rank, world)

    def _on_device(self, images: Images | ImageFiles) -> Images | ImageFiles:
        if not self.on_device or self.trainer is None or isinstance(images, ImageFiles):
            return images
        device = self.trainer.strategy.root_device
        # Training and validation images are parts of one set: it is moved once.
        if id(images) not in self._moved:
            self._moved[id(images)] = images.to(device)
        return self._moved[id(images)]

    def _split(self, images: Images | ImageFiles) -> tuple[Part, Part | None]:
        if self.val_size is None:
            return (images, torch.arange(len(images))), None
        if self.val_size == 0:
            assert self.test_set is not None
            warnings.warn("val_size is 0: validating on the test set, which is then no longer a test", stacklevel=2)
            return (images, torch.arange(len(images))), self.test_set
        kept, held_out = stratified_split(images.labels, self.val_size, self.split_seed)
        return (images, kept), (images, held_out)


class CIFAR10(ImageData):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 10 classes, 32×32, downloaded when absent.

    Args:
        root: Folder that has or gets ``cifar-10-batches-py``; null takes the environment's CIFAR10_ROOT, else ``data``.
    """

    num_classes = 10
    source: type[torchvision.datasets.CIFAR10] = torchvision.datasets.CIFAR10

    def __init__(self, root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root or os.environ.get(f"{self.source.__name__}_ROOT", "data")).expanduser()

    def prepare_data(self) -> None:
        """Downloads the archive unless its files are there."""
        download_cifar(self.source, self.root)

    def read(self, train: bool) -> Images:
        """50,000 training or 10,000 test images, uint8 ``(N, 3, 32, 32)``, after a check of their MD5."""
        return read_cifar(self.source, self.root, train)


class CIFAR100(CIFAR10):
    """CIFAR-100 (Krizhevsky 2009): like CIFAR-10 with 100 classes.

    Args:
        root: Folder that has or gets ``cifar-100-python``; null takes the environment's CIFAR100_ROOT, else ``data``.
    """

    num_classes = 100
    source = torchvision.datasets.CIFAR100


class Digits(ImageData):
    """scikit-learn's 1,797 handwritten digits, 8×8: 1,437 to train and validate, 360 to test; nothing to download."""

    num_classes = 10

    def read(self, train: bool) -> Images:
        """1,437 training or 360 test images, uint8 ``(N, 3, 8, 8)``."""
        return read_digits(train)


def _count(part: Part | None) -> int:
    return 0 if part is None else len(part[1])


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UserError(otherwise)
