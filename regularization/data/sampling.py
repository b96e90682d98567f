"""Which images make up which batch: a pure function of (seed, epoch, step)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from regularization.data.augment import mix


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
