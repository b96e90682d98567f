import pytest

from regularization.data.augmentation.operations import OPERATIONS
from regularization.internals.torchvision import auto_augment_pairs


@pytest.mark.parametrize("data_set", ["cifar10", "imagenet", "svhn"])
def test_the_policies_of_auto_augment(data_set: str) -> None:
    pairs = auto_augment_pairs(data_set)
    assert len(pairs) == 25
    for name, probability, magnitude in (step for pair in pairs for step in pair):
        assert name in OPERATIONS
        assert 0 <= probability <= 1
        assert magnitude is None or 0 <= magnitude <= 9
