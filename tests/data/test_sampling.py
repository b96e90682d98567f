import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regularization.data.readers import Images
from regularization.data.sampling import EpochSampler, RankShard, check_divisible
from regularization.errors import UserError


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_every_image_comes_once_per_epoch(count: int, batch_size: int, seed: int, epoch: int) -> None:
    subset = torch.arange(1000, 1000 + 3 * count, 3)
    sampler = EpochSampler(subset, batch_size, seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert sorted(torch.cat(batches).tolist()) == subset.tolist()


def test_the_order_of_an_epoch_does_not_depend_on_earlier_epochs() -> None:
    sampler = EpochSampler(torch.arange(100), 10, seed=7)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(torch.cat(list(sampler)))
    fresh = EpochSampler(torch.arange(100), 10, seed=7)
    fresh.set_epoch(2)
    assert torch.equal(torch.cat(list(fresh)), epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(EpochSampler(torch.arange(100), 10, seed=8).permutation(0), epochs[0])


def test_a_resumed_epoch_yields_the_remaining_images() -> None:
    whole = EpochSampler(torch.arange(100), 10, seed=7)
    resumed = EpochSampler(torch.arange(100), 10, seed=7, progress=(1, 35))
    for epoch, used in ((0, 0), (1, 35), (2, 0)):
        whole.set_epoch(epoch)
        resumed.set_epoch(epoch)
        assert torch.equal(torch.cat(list(resumed)), torch.cat(list(whole))[used:])


def test_without_a_seed_images_are_not_shuffled() -> None:
    subset = torch.tensor([5, 3, 9])
    assert torch.cat(list(EpochSampler(subset, 2))).tolist() == [5, 3, 9]


@given(st.integers(1, 70), st.integers(1, 9), st.integers(1, 2))
def test_the_weighted_means_of_the_parts_average_to_the_mean_of_the_batch(
    size: int, world_size: int, min_size: int
) -> None:
    images = Images(torch.arange(100).reshape(100, 1, 1, 1), torch.arange(100), ("one",))
    indices = torch.randperm(100, generator=torch.Generator().manual_seed(size))[:size]
    parts = [RankShard(images, rank, world_size, min_size)[indices] for rank in range(world_size)]
    counted = [part for part in parts if part.weight]
    assert torch.equal(torch.cat([part.indices for part in counted]), indices)
    sizes = [len(part.labels) for part in counted]
    assert max(sizes) - min(sizes) <= 1
    assert min(len(part.labels) for part in parts) >= min(min_size, size)
    means = [part.weight * part.labels.double().mean().item() for part in parts]
    assert np.mean(means) == pytest.approx(indices.double().mean().item(), rel=1e-12)


def test_a_batch_size_that_is_not_divisible_names_the_nearest_that_are() -> None:
    check_divisible(64, 4)
    with pytest.raises(UserError, match="batch_size 62 cannot be split evenly across 4 processes: 60 or 64 can"):
        check_divisible(62, 4)
    with pytest.raises(UserError, match="across 8 processes: 8 can"):
        check_divisible(3, 8)
