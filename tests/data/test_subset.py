"""The option ``subset``: the number of training images, equal shares of all classes, and nested subsets."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from regularization import Digits, UserError
from regularization.data.sampling import stratified_subset
from tests.training.test_command import Refused


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 9), st.data())
def test_subsets_are_nested_and_keep_the_share_of_each_class(sizes: list[int], seed: int, data: st.DataObject) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels))]
    # For example, the images at even positions are held out.
    indices = torch.arange(1, len(labels), 2) if len(labels) > 1 else torch.arange(1)
    small, large = sorted(data.draw(st.integers(1, len(indices))) for _ in range(2))
    subsets = [stratified_subset(labels, indices, size, seed).tolist() for size in (small, large, len(indices))]
    assert [len(subset) for subset in subsets] == [small, large, len(indices)]
    assert set(subsets[0]) <= set(subsets[1]) <= set(subsets[2]) == set(indices.tolist())
    assert subsets[0] == sorted(subsets[0])
    # In every class of n images, the share t is rounded to a whole number, which differs from n · t by at most 1/2.
    totals = torch.bincount(labels[indices], minlength=len(sizes)).double()
    counts = torch.bincount(labels[subsets[1]], minlength=len(sizes)).double()
    lowest, highest = ((counts - 0.5) / totals).nan_to_num(-1), ((counts + 0.5) / totals).nan_to_num(2)
    assert lowest.max() <= highest.min() + 1e-9


def test_equal_classes_have_equally_many() -> None:
    labels = torch.arange(5_000) % 10
    subset = stratified_subset(labels, torch.arange(5_000), 1_000, seed=0)
    assert torch.bincount(labels[subset]).tolist() == [100] * 10
    assert torch.equal(subset, stratified_subset(labels, torch.arange(5_000), 0.2, seed=0))
    assert not torch.equal(subset, stratified_subset(labels, torch.arange(5_000), 0.2, seed=1))


def parts(**options: Any) -> tuple[set[int], Tensor]:
    data = Digits(val_size=0.2, **options)
    data.setup("fit")
    assert data.train_set is not None
    assert data.val_set is not None
    assert f" {len(data.train_set[1]):,} training images" in data.describe()
    return set(data.train_set[1].tolist()), data.val_set[1]


def test_the_validation_images_stay_the_same() -> None:
    all_images, val = parts()
    few, same = parts(subset=100)
    more, _ = parts(subset=0.5, label_noise=0.3)
    assert len(few) == 100
    assert parts(subset=100.0)[0] == few  # the command line may parse it as a float
    assert few < more < all_images
    assert len(more) == round(0.5 * len(all_images))
    assert torch.equal(val, same)


@pytest.mark.parametrize("subset", [0, -3, 1150, 0.0, 1.5, 1e-5])
def test_an_impossible_subset_is_refused(subset: float) -> None:
    with pytest.raises(UserError, match=rf"--data\.subset must be a number from 1 to 1149, .* not {subset}$"):
        parts(subset=subset)


def test_a_mistake_on_the_command_line(refused: Refused) -> None:
    message = refused("fit", "--config", "quickstart", "--data.subset=5000")
    assert "--data.subset must be a number from 1 to 100," in message
