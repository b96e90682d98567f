"""ImageData, the base class of the data sets: it keeps uint8 images in memory and yields batches for the network."""

import os
import warnings
import zlib
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from regularization.data.augmentation.augment import Augment, Augmentation, PaddingMode
from regularization.data.image_files import ImageFiles
from regularization.data.label_noise import with_wrong_labels
from regularization.data.preprocess import Preprocess
from regularization.data.readers import Images, stratified_split
from regularization.data.sampling import Batch, EpochSampler, make_loader, stratified_subset
from regularization.errors import UserError
from regularization.internals import lightning as internals

RGB = tuple[float, float, float]
# A set of images and the indices of those that belong to this part, int64 ``(N,)``.
Part = tuple[Images | ImageFiles, Tensor]


class ImageData(LightningDataModule, ABC):
    """Base class of the data sets: the split, the order of batches, augmentation and preprocessing.

    Args:
        batch_size: Training images per batch, over all devices together.
        eval_batch_size: Images per batch in validation and test.
        val_size: Training images that are held out for validation, as a number or a fraction of each class. 0 validates
            on the test set, which is then no longer independent; null holds out none and does not validate.
        split_seed: Seed of that split, independent of all other seeds, so that runs can be compared.
        image_size: Height and width that images are resized to, in pixels; null keeps their size.
        mean: Mean of each channel, which is subtracted, on the scale 0 to 1; null for 0.5, or for the mean that the
            weights in ``model.weights`` were trained with.
        std: Standard deviation of each channel, which is divided by; null as for ``mean``.
        early_size: Height and width of training images in the first steps, in pixels, to save time; null for none.
        early_share: Share of the training steps that use early_size instead of image_size.
        flip: Flip training images with probability 1/2; ``alternating`` flips each half of them every other epoch.
        crop_padding: Shift training images by up to this many pixels; 0 does not shift them.
        padding_mode: Padding: ``constant`` is black, ``reflect`` is the image mirrored at its edge.
        cutout: Side in pixels of a square that is set to black in each training image; 0 for none.
        augmentations: Augmentation policies and random erasing, each under a name you choose; null removes one.
        label_noise: Fraction of the training labels that are replaced by another class, drawn with ``split_seed``.
        subset: Number or fraction of the training images to use, the same share of each class; subsets are nested.
        on_device: Keep the images on the training device, so that the CPU does not process them.
        seed: Seed of the order and the augmentation; null takes the one of ``seed_everything``.
    """

    num_classes: int
    loss_weights: Tensor | None = None  # of each class in the training loss, (C,)

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
        augmentations: dict[str, Augmentation | None] = {},  # noqa: B006 - never changed
        label_noise: float = 0.0,
        subset: int | float | None = None,
        on_device: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        _check_minimum(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        _check_minimum(1, image_size=image_size, early_size=early_size)
        _check_minimum(0, val_size=val_size, crop_padding=crop_padding, cutout=cutout)
        _check(0 <= early_share <= 1, f"--data.early_share must be between 0 and 1, not {early_share}")
        _check(0 <= label_noise < 1, f"--data.label_noise must be at least 0 and below 1, not {label_noise}")
        _check((mean is None) == (std is None), "--data.mean and --data.std go together: give both, or neither")
        mean, std = mean or (0.5, 0.5, 0.5), std or (0.5, 0.5, 0.5)
        _check(min(std) > 0, f"--data.std must be positive, not {std}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.split_seed, self.subset, self.image_size = val_size, split_seed, subset, image_size
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.augment = Augment(flip, crop_padding, cutout, self.seed, None, padding_mode, augmentations)
        self.preprocess = self.train_preprocess = Preprocess(image_size, mean, std)
        self.early_preprocess = Preprocess(early_size, mean, std) if early_size else None
        self.early_share, self.label_noise, self.on_device = early_share, label_noise, on_device
        self._device_images: dict[int, Images] = {}
        self.train_set: Part | None = None
        self.val_set: Part | None = None
        self.test_set: Part | None = None
        self._progress = (0, 0)

    @classmethod
    def count_classes(cls, options: Namespace) -> int:
        """The number of classes of the data set with these ``options``, before it is read."""
        return cls.num_classes

    @abstractmethod
    def read(self, train: bool) -> Images | ImageFiles:
        """The whole training or test set."""

    def inference_config(self) -> dict[str, Any]:
        """The settings that inference needs: the names of the classes and the arguments of Preprocess."""
        part = self.train_set or self.test_set
        assert part is not None, "setup() comes first"
        size = part[0].shape[0] if part[0].shape[0] == part[0].shape[1] else None
        return {"classes": list(part[0].classes), "preprocess": self.preprocess.settings(size)}

    def setup(self, stage: str) -> None:
        """Reads and splits the images that ``stage`` (fit, validate, test, predict) needs, if not done before."""
        if self.test_set is None and (stage in ("test", "predict") or self.val_size == 0):
            images = self.read(train=False)
            self.test_set = images, torch.arange(len(images))
        if stage in ("fit", "validate") and self.train_set is None:
            (images, subset), self.val_set = self._split(self.read(train=True))
            subset = stratified_subset(images.labels, subset, self.subset, self.split_seed)
            self.train_set = with_wrong_labels(images, self.label_noise, self.split_seed), subset

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training images; a resumed epoch has the remaining ones only."""
        return self._loader(self.train_set, self.batch_size, self.seed, self._progress)

    def state_dict(self) -> dict[str, Any]:
        """The epoch, how many of its images were used (0 between epochs), and a checksum of the training images."""
        assert self.trainer is not None
        assert self.train_set is not None
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches = internals.batches_of_epoch(self.trainer)
        in_epoch = not internals.is_between_epochs(self.trainer)
        images_done = batches * self.batch_size if in_epoch else 0
        if in_epoch and epochs.processed == self._progress[0]:
            # The batch size may have been different before the resume, so those images are counted separately.
            images_done = self._progress[1] + (batches - self.batches_done()) * self.batch_size
        images_done = min(images_done, len(self.train_set[1]))
        return {"epoch": epochs.processed, "images_done": images_done, "fingerprint": self._fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues after the images already used; warns if the training images differ from those of the checkpoint."""
        self._progress = (state_dict["epoch"], state_dict["images_done"])
        if self.train_set is not None and state_dict.get("fingerprint") not in (None, self._fingerprint()):
            # Images that are now held out may have been trained on.
            warnings.warn("the training images are not those that the checkpoint was trained on", stacklevel=2)

    def _fingerprint(self) -> int:
        """A checksum of the indices and labels of the training images."""
        assert self.train_set is not None
        images, subset = self.train_set
        return zlib.crc32(torch.stack([subset, images.labels[subset]]).numpy().tobytes())

    def batches_done(self) -> int:
        """Number of completed batches of a resumed epoch, in the current batch size: all but the remaining ones."""
        assert self.train_set is not None
        size = len(self.train_set[1])
        return -(-size // self.batch_size) - -(-(size - min(self._progress[1], size)) // self.batch_size)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the validation images in order; empty if none are held out."""
        return [] if self.val_size is None else self._loader(self.val_set, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images in order."""
        return self._loader(self.test_set, self.eval_batch_size)

    predict_dataloader = test_dataloader

    def clean_dataloader(self) -> DataLoader[Any]:
        """Batches of a fixed, unaugmented subset of training images: as many as are validated, but 256 to 5,000.

        With 256 or more validation images, it costs at most as much as the validation. The standard error of an
        accuracy on 5,000 images is 0.7 points. Without validation, there are 5,000 for the statistics of batch norm.
        """
        assert self.train_set is not None, "setup() comes first"
        images, subset = self.train_set
        limit = 5000 if self.trainer is None else self.eval_batch_size * sum(self.trainer.num_val_batches)
        validated = int(min(_count(self.val_set), limit))
        size = max(256, min(5000, validated or 5000))
        return self._loader((images, self._shuffled(subset)[:size]), self.eval_batch_size)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turns uint8 pixels into the network's input on the device, float32 ``(B, 3, H, W)``; augments in training."""
        pixels, preprocess = batch.images, self.preprocess
        if self.trainer is not None and self.trainer.training:
            pixels = self.augment(pixels, batch.indices, self.trainer.current_epoch)
            preprocess = self._training_preprocess(self.trainer)
        return batch._replace(images=preprocess.to(pixels.device)(pixels))

    def _shuffled(self, subset: Tensor) -> Tensor:
        return subset[torch.randperm(len(subset), generator=torch.Generator().manual_seed(self.split_seed))]

    def calibration_sample(self) -> Tensor:
        """Up to 1,000 unaugmented training images at the image size of the first step, float32 ``(N, 3, H, W)``."""
        assert self.train_set is not None, "setup() comes first"
        # Each process takes the whole sample, so that all of them begin with the same weights.
        images, subset = self._on_device(self.train_set[0]), self._shuffled(self.train_set[1])[:1000]
        sampler = EpochSampler(subset, self.eval_batch_size, device=images.labels.device)
        pixels = torch.cat([batch.images for batch in make_loader(images, sampler)])
        sample: Tensor = (self.early_preprocess or self.preprocess).to(pixels.device)(pixels)
        return sample

    def _training_preprocess(self, trainer: Trainer) -> Preprocess:
        if self.early_preprocess is None:
            return self.train_preprocess
        steps, _ = internals.training_length(trainer)
        _check(steps < float("inf"), "--data.early_size requires --trainer.max_epochs or --trainer.max_steps")
        return self.early_preprocess if trainer.global_step < self.early_share * steps else self.train_preprocess

    def describe(self) -> str:
        """One line for users: the name of the data set and the numbers of images."""
        val = "validation on the test set" if self.val_size == 0 else f"{_count(self.val_set):,} validation images"
        return f"{type(self).__name__}: {_count(self.train_set):,} training images, {val}"

    def _loader(
        self, part: Part | None, batch_size: int, seed: int | None = None, progress: tuple[int, int] = (0, 0)
    ) -> DataLoader[Any]:
        assert part is not None, "setup() comes first"
        images, subset = self._on_device(part[0]), part[1]
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        overfit = bool(getattr(self.trainer, "overfit_batches", 0))  # Lightning trains on a few fixed batches
        sampler = EpochSampler(subset, batch_size, seed, progress, images.labels.device, same_order=overfit)
        return make_loader(images, sampler, rank, world_size)

    def _on_device(self, images: Images | ImageFiles) -> Images | ImageFiles:
        if not self.on_device or self.trainer is None or isinstance(images, ImageFiles):
            return images
        # Training and validation images are parts of one set, which is moved once.
        if id(images) not in self._device_images:
            self._device_images[id(images)] = images.to(self.trainer.strategy.root_device)
        return self._device_images[id(images)]

    def _split(self, images: Images | ImageFiles) -> tuple[Part, Part | None]:
        if self.val_size:
            kept, held_out = stratified_split(images.labels, self.val_size, self.split_seed, images.classes)
            return (images, kept), (images, held_out)
        if self.val_size == 0:
            message = "val_size is 0: validating on the test set, which is then no longer independent"
            warnings.warn(message, stacklevel=2)
        return (images, torch.arange(len(images))), self.test_set if self.val_size == 0 else None


def _count(part: Part | None) -> int:
    return 0 if part is None else len(part[1])


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _check_minimum(minimum: int, **options: float | None) -> None:
    for name, value in options.items():
        _check(value is None or value >= minimum, f"--data.{name} must be at least {minimum}, not {value}")
