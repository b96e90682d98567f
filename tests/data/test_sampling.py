import torch
from hypothesis import given
from hypothesis import strategies as st

from regularization.data.sampling import EpochSampler


@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_every_image_once_an_epoch(count: int, batch_size: int, seed: int, epoch: int) -> None:
    subset = torch.arange(1000, 1000 + 3 * count, 3)
    order = EpochSampler(subset, batch_size, seed)
    order.set_epoch(epoch)
    batches = list(order)
    assert len(batches) == len(order)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert sorted(torch.cat(batches).tolist()) == subset.tolist()


def test_an_epochs_order_needs_no_history() -> None:
    order = EpochSampler(torch.arange(100), 10, seed=7)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        epochs.append(torch.cat(list(order)))
    fresh = EpochSampler(torch.arange(100), 10, seed=7)
    fresh.set_epoch(2)
    assert torch.equal(torch.cat(list(fresh)), epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(EpochSampler(torch.arange(100), 10, seed=8).permutation(0), epochs[0])


def test_without_a_seed_nothing_is_shuffled() -> None:
    subset = torch.tensor([5, 3, 9])
    assert torch.cat(list(EpochSampler(subset, 2))).tolist() == [5, 3, 9]
