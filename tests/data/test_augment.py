import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import functional as torchvision_functional

from regularization.data.augmentation.augment import Augment, PaddingMode, mix, uniform
from regularization.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)


def splitmix64(state: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on uint64, after Steele, Lea and Flood 2014."""
    with np.errstate(over="ignore"):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(state ^ (state >> np.uint64(31)))


def test_splitmix64_reference_value() -> None:
    # The first output for the seed 1234567, on which public implementations of the algorithm agree.
    assert splitmix64(np.array([1234567 + 0x9E3779B97F4A7C15], np.uint64))[0] == 6457827717110365317


@settings(max_examples=30)
@given(SEEDS, st.integers(0, 300), st.integers(0, 2**40))
def test_uniform_is_splitmix64_of_the_index(seed: int, epoch: int, first: int) -> None:
    index = torch.arange(first, first + 50)
    with np.errstate(over="ignore"):
        state = np.uint64(mix(seed, epoch)) + (index.numpy().astype(np.uint64) + np.uint64(1)) * np.uint64(
            0x9E3779B97F4A7C15
        )
    expected = (splitmix64(state) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    assert np.array_equal(uniform(index, seed, epoch).numpy(), expected)


def test_uniform_is_uniform_and_independent() -> None:
    index = torch.arange(100_000)
    first, second = uniform(index, 0, 0, 0), uniform(index, 0, 0, 1)
    counts = torch.histc(first, 100, 0, 1)
    # χ² with 99 degrees of freedom is below 149 with probability 0.999.
    assert ((counts - 1000) ** 2 / 1000).sum() < 149
    draws = torch.stack([first, second, uniform(index, 0, 1, 0), uniform(index, 1, 0, 0)])
    # The correlation of 100,000 pairs has a standard deviation of 0.003.
    assert torch.corrcoef(draws).triu(1).abs().max() < 0.015


def test_augmentation_of_an_image_does_not_depend_on_its_batch() -> None:
    augment = Augment(flip=True, crop_padding=4, seed=3)
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    index = torch.randperm(1000)[:40]
    whole = augment(pixels, index, epoch=5)
    order = torch.randperm(40)
    assert torch.equal(augment(pixels[order], index[order], epoch=5), whole[order])
    assert torch.equal(torch.cat([augment(pixels[i : i + 7], index[i : i + 7], 5) for i in range(0, 40, 7)]), whole)
    assert not torch.equal(augment(pixels, index, epoch=6), whole)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_flip_and_crop_equal_torchvision(mode: PaddingMode) -> None:
    pixels = torch.randint(0, 256, (60, 3, 8, 10), dtype=torch.uint8)
    index = torch.arange(60)
    augment = Augment(flip=True, crop_padding=2, seed=1, padding_mode=mode)
    mirrored = uniform(index, 1, 0, 0) < 0.5
    top = (uniform(index, 1, 0, 1) * 5).long()
    left = (uniform(index, 1, 0, 2) * 5).long()
    for image, flip, y, x, got in zip(pixels, mirrored, top, left, augment(pixels, index, 0), strict=True):
        crop = torchvision_functional.crop(
            torchvision_functional.pad(image, [2, 2], padding_mode=mode), int(y), int(x), 8, 10
        )
        expected = torchvision_functional.hflip(crop) if flip else crop
        assert torch.equal(got, expected)
    assert 15 < mirrored.sum() < 45
    assert set(top.tolist()) == set(left.tolist()) == {0, 1, 2, 3, 4}


def test_reflection_needs_images_larger_than_the_padding() -> None:
    pixels = torch.randint(0, 256, (3, 3, 5, 8), dtype=torch.uint8)
    assert Augment(crop_padding=4, padding_mode="reflect")(pixels, torch.arange(3), 0).shape == pixels.shape
    with pytest.raises(UserError, match="crop_padding 5 is too large to reflect images of 5×8"):
        Augment(crop_padding=5, padding_mode="reflect")(pixels, torch.arange(3), 0)


def test_alternating_flips_show_both_sides_in_two_epochs() -> None:
    pixels = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8)
    augment = Augment(flip="alternating", seed=1)
    first, second, third = (augment(pixels, torch.arange(60), epoch) for epoch in (0, 1, 2))
    assert torch.equal(second, first.flip(-1))
    assert torch.equal(third, first)
    mirrored = (first == pixels.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(first[~mirrored], pixels[~mirrored])
    assert 15 < mirrored.sum() < 45


def test_without_options_the_images_are_returned_as_they_are() -> None:
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    assert Augment()(pixels, torch.arange(4), 0) is pixels
