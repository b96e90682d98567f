"""Which images make up which batch, a pure function of (seed, epoch, step); and each process's part of it."""

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from regularization.data.augment import mix
from regularization.data.image_files import ImageFiles
from regularization.data.readers import Images
from regularization.errors import UserError


class EpochSampler(Sampler[Tensor]):
    """Yields the batches of one epoch as index tensors, int64 ``(B,)``; the last one may be smaller.

    Shuffled, epoch e is the permutation drawn by a generator seeded with (seed, e), so the batch at any step can
    be computed without having gone through those before it. Every image comes exactly once an epoch.

    Args:
        subset: Indices of the images to go through, int64 ``(N,)``.
        batch_size: Images a batch.
        seed: Seed of the shuffling; ``None`` keeps the order of ``subset``.
        done: An epoch that is continued, and how many of its images were gone through before.
        device: Where the index tensors are wanted; an epoch's are moved there at once.
    """

    def __init__(
        self,
        subset: Tensor,
        batch_size: int,
        seed: int | None = None,
        done: tuple[int, int] = (0, 0),
        device: torch.device | None = None,
    ) -> None:
        self.subset = subset
        self.batch_size = batch_size
        self.seed = seed
        self.done = done
        self.device = device
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def permutation(self, epoch: int) -> Tensor:
        """The images of ``epoch`` in their order, int64 ``(N,)``."""
        if self.seed is None:
            return self.subset
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        return self.subset[torch.randperm(len(self.subset), generator=generator)]

    def __iter__(self) -> Iterator[Tensor]:
        # Runs when the first batch is asked for, after the trainer has said which epoch it is.
        continued, done = self.done
        if len(left := self.permutation(self.epoch)[done if self.epoch == continued else 0 :]):
            yield from torch.split(left.to(self.device), self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.subset) // self.batch_size)


class Batch(NamedTuple):
    """One process's part of a batch.

    Attributes:
        images: uint8 ``(B, 3, H, W)`` as they are read; float32, augmented, resized and normalized for the network.
        labels: int64 ``(B,)``.
        indices: Which images of the whole set they are, int64 ``(B,)``.
        weight: What a mean over this part counts for in the mean over all processes: 1 where all parts are of one
            size, 0 where this one has images only so that there is something to compute with.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    weight: float

    @property
    def counted(self) -> int:
        """How many of the images count: all, or none."""
        return len(self.labels) if self.weight else 0


class RankShard(Dataset[Batch]):
    """A process's part of every batch of ``images``; all of it where there is one process.

    The parts follow each other and differ by one image at most. So the mean over processes of weight × mean over the
    part is the mean over the batch, and no image is taken twice or left out. Of a batch that is too small for all, some
    get nothing and the others ``least`` images.

    Args:
        images: The whole set.
        rank: Which of the processes this is.
        world: How many there are.
        least: Images of a part that is not empty, at least: 2 where batch norm, which has no variance of one, trains.
    """

    def __init__(self, images: Images | ImageFiles, rank: int = 0, world: int = 1, least: int = 1) -> None:
        self._images = images
        self._rank = rank
        self._world = world
        self._least = least

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor) -> Batch:
        """The part of the batch at ``index``, int64 ``(B,)``; where that is empty, the first images with weight 0."""
        parts = min(self._world, max(1, len(index) // self._least))
        own = index.tensor_split(parts)[self._rank] if self._rank < parts else index[:0]
        weight = len(own) * self._world / len(index)
        return Batch(*self._images[own if len(own) else index[: self._least]], weight)


class LazyDataLoader(DataLoader[Any]):
    """A DataLoader that begins when the first batch is asked for.

    Lightning makes an iterator before it says which epoch it is, and worker processes would begin with it at once.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as mistake:
            # From a worker process it comes with a traceback in its text.
            raise UserError(str(mistake).rpartition("UserError: ")[2].strip()) from None


def make_loader(images: Images | ImageFiles, order: EpochSampler, rank: int = 0, world: int = 1) -> LazyDataLoader:
    """The batches of ``images`` that ``order`` makes up, or the part of them that process ``rank`` of ``world`` has."""
    # Who trains with one image a process does so knowingly.
    least = 2 if order.batch_size >= 2 * world else 1
    return LazyDataLoader(
        RankShard(images, rank, world, least),
        # batch_size=None: the order's index tensors go to the images whole; nothing is collated.
        sampler=order,
        batch_size=None,
        # Of its own: an iterator draws a number when it is made, and must not move the global stream.
        generator=torch.Generator(),
        num_workers=images.workers,
        # The training's processes stay; those of an evaluation would only wait.
        persistent_workers=images.workers > 0 and order.seed is not None,
        worker_init_fn=ignore_sigint,
    )


def ignore_sigint(worker: int) -> None:
    """Ctrl-C is for the main process, which ends its workers, by SIGTERM, when it has written what it must."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_divisible(batch_size: int, world: int) -> None:
    """Checks that every process gets as many images of a batch as the others.

    Raises:
        UserError: Naming the next sizes that can be shared.
    """
    if batch_size % world:
        low, high = batch_size // world * world, -(-batch_size // world) * world
        sizes = f"{low} or {high}" if low else str(high)
        raise UserError(f"--data.batch_size {batch_size} can't be shared evenly by {world} processes: {sizes} can")


def smallest_valid_batch(batch_size: int, images: int, world: int) -> int:
    """The next batch size with which no process has one image alone, at the end of all ``images`` neither."""
    size = max(batch_size // world + 1, 2) * world
    while images % size == 1:
        size += world
    return size
