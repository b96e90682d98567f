"""Selects the images of each batch from (seed, epoch, step) alone, and splits each batch across processes."""

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from regularization.data.augmentation.augment import mix
from regularization.data.image_files import ImageFiles
from regularization.data.readers import Images
from regularization.errors import UserError


class EpochSampler(SequentialSampler):
    """Yields the batches of one epoch as tensors of indices, int64 ``(B,)``; the last batch may be smaller.

    With a seed, the order of an epoch is the permutation that a generator seeded with (seed, epoch) draws. So the batch
    of any step can be computed without going through the earlier ones. Every image is used exactly once per epoch. If
    ``weights`` are set, the same number of images is drawn with replacement instead.

    It subclasses ``SequentialSampler`` because Lightning replaces any other sampler if ``overfit_batches`` is set.

    Args:
        subset: Indices of the images to use, int64 ``(N,)``.
        batch_size: Images per batch.
        seed: Seed of the shuffling; ``None`` keeps the order of ``subset``.
        progress: The epoch that is resumed, and the number of its images that were already used.
        device: The device of the index tensors; all indices of an epoch are moved there at once.
        same_order: Whether all epochs use the order of the first epoch.

    Attributes:
        weights: Unnormalized sampling probability of each image of ``subset``, ``(N,)``; None for a permutation.
    """

    def __init__(
        self,
        subset: Tensor,
        batch_size: int,
        seed: int | None = None,
        progress: tuple[int, int] = (0, 0),
        device: torch.device | None = None,
        same_order: bool = False,
    ) -> None:
        self.subset = subset
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress
        self.device = device
        self.same_order = same_order
        self.weights: Tensor | None = None
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def permutation(self, epoch: int) -> Tensor:
        """The indices of the images in the order of ``epoch``, int64 ``(N,)``."""
        if self.seed is None:
            return self.subset
        generator = torch.Generator().manual_seed(mix(self.seed, 0 if self.same_order else epoch))
        if self.weights is not None:
            return self.subset[torch.multinomial(self.weights, len(self.subset), replacement=True, generator=generator)]
        return self.subset[torch.randperm(len(self.subset), generator=generator)]

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        # This runs when the first batch is requested, after the trainer has set the epoch.
        resumed_epoch, images_used = self.progress
        remaining = self.permutation(self.epoch)[images_used if self.epoch == resumed_epoch else 0 :]
        if len(remaining):
            yield from torch.split(remaining.to(self.device), self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.subset) // self.batch_size)


class Batch(NamedTuple):
    """The part of a batch that one process gets.

    Attributes:
        images: uint8 ``(B, 3, H, W)`` as read; after preprocessing float32, the input of the network.
        labels: int64 ``(B,)``.
        indices: Indices of the images in the whole set, int64 ``(B,)``.
        weight: Weight of the mean over this part in the mean over all processes. It is 1 if all parts have the same
            size. It is 0 if the images of this part do not belong to the batch; such images are placeholders, so that
            every process runs every step.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    weight: float

    @property
    def counted(self) -> int:
        """How many of the images belong to the batch: all, or none."""
        return len(self.labels) if self.weight else 0


def as_batch(batch: Any) -> Batch:
    """Returns a Batch unchanged; converts images or ``(images, labels, …)`` of an ordinary DataLoader to a Batch."""
    if isinstance(batch, Batch):
        return batch
    images, labels = batch[:2] if isinstance(batch, list | tuple) and len(batch) > 1 else (batch, None)
    images = images[0] if isinstance(images, list | tuple) else images
    positions = torch.arange(len(images), device=images.device)
    return Batch(images, positions.new_zeros(len(images)) if labels is None else labels, positions, 1.0)


class RankShard(Dataset[Batch]):
    """The part of each batch of ``images`` for one process; the whole batch if there is only one process.

    The parts are consecutive and differ in size by at most one image. The mean over processes of weight × mean over
    the part equals the mean over the batch, and every image is used exactly once. If a batch is too small for all
    processes, some processes get no image of it, and the others get at least ``min_size``.

    Args:
        images: The whole set.
        rank: The index of this process, from 0.
        world_size: The number of processes.
        min_size: Minimum number of images in a part that is not empty: 2 for training with batch norm, which needs a
            variance.
    """

    def __init__(self, images: Images | ImageFiles, rank: int = 0, world_size: int = 1, min_size: int = 1) -> None:
        self._images = images
        self._rank = rank
        self._world_size = world_size
        self._min_size = min_size

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor) -> Batch:
        """The part of the batch at ``index``, int64 ``(B,)``; if it is empty, the first images with weight 0."""
        parts = min(self._world_size, max(1, len(index) // self._min_size))
        part = index.tensor_split(parts)[self._rank] if self._rank < parts else index[:0]
        weight = len(part) * self._world_size / len(index)
        return Batch(*self._images[part if len(part) else index[: self._min_size]], weight)


class LazyDataLoader(DataLoader[Any]):
    """A DataLoader that starts to read when the first batch is requested.

    Lightning creates an iterator before it sets the epoch, and worker processes would start to read immediately.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            # The text of an error in a worker process includes a traceback.
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def make_loader(
    images: Images | ImageFiles, sampler: EpochSampler, rank: int = 0, world_size: int = 1
) -> LazyDataLoader:
    """Creates a loader of the batches that ``sampler`` yields, or of one process's part of each batch."""
    # With a batch size of one image per process, parts of one image are what the user wants.
    min_size = 2 if sampler.batch_size >= 2 * world_size else 1
    return LazyDataLoader(
        RankShard(images, rank, world_size, min_size),
        # batch_size=None: each index tensor of the sampler is passed on as a whole, and nothing is collated.
        sampler=sampler,
        batch_size=None,
        # A separate generator: an iterator draws a number when it is created, which must not advance the global one.
        generator=torch.Generator(),
        num_workers=images.workers,
        # Training workers are kept between epochs; evaluation workers would only be idle.
        persistent_workers=images.workers > 0 and sampler.seed is not None,
        worker_init_fn=ignore_sigint,
    )


def stratified_subset(labels: Tensor, indices: Tensor, size: int | float | None, seed: int) -> Tensor:
    """Chooses ``size`` of the images at ``indices`` so that each class keeps its share of them.

    Subsets are nested: with the same ``indices`` and ``seed`` a smaller one is part of a larger one.

    Args:
        labels: Labels of the whole set, int64 ``(N,)``.
        indices: The images to choose from, int64 ``(M,)``.
        size: The number of images to choose, or their fraction; None takes all.
        seed: Seed of the choice.

    Returns:
        Sorted indices, int64.

    Raises:
        UserError: When ``size`` is neither a number from 1 to M nor a fraction that gives at least one image.
    """
    if size is None:
        return indices
    # 30.0 is 30: jsonargparse may try float first, see internals.jsonargparse.try_integers_first.
    count = round(size * len(indices)) if isinstance(size, float) and size <= 1 else int(size)
    if not 1 <= count <= len(indices) or size > count:
        raise UserError(
            f"--data.subset must be a number from 1 to {len(indices)}, as many as there are training images, or a "
            f"fraction of them, not {size}"
        )
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[indices[order]]
    counts = torch.bincount(shuffled)
    # The rank of each image among those of its class.
    by_class = shuffled.argsort(stable=True)
    rank = torch.empty_like(by_class)
    rank[by_class] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[shuffled[by_class]]
    # The relative position of each image in its class: taking the smallest takes the same share of every class.
    place = (rank + 0.5).double() / counts[shuffled]
    return indices[order[place.argsort(stable=True)[:count]]].sort().values


def ignore_sigint(worker_id: int) -> None:
    """Ignores Ctrl-C in a worker process: the main process handles it and ends its workers after saving its state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_divisible(batch_size: int, world_size: int) -> None:
    """Checks that all processes get the same number of images of a batch.

    Raises:
        UserError: When they do not; the message names the nearest batch sizes that are divisible.
    """
    if batch_size % world_size:
        lower, upper = batch_size // world_size * world_size, -(-batch_size // world_size) * world_size
        sizes = f"{lower} or {upper}" if lower else str(upper)
        raise UserError(
            f"--data.batch_size {batch_size} cannot be split evenly across {world_size} processes: {sizes} can"
        )


def smallest_valid_batch(batch_size: int, images: int, world_size: int) -> int:
    """The next larger batch size with which no process gets a single image, not even in the last batch of an epoch."""
    size = max(batch_size // world_size + 1, 2) * world_size
    while images % size == 1:
        size += world_size
    return size
