"""Each operation against torchvision's on a single image; the draws of the policies by their frequencies."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from regularization import Augmentation, AugMix, AutoAugment, RandAugment, RandomErasing, TrivialAugment, UserError
from regularization.data.augmentation import policies
from regularization.data.augmentation.augment import Augment, Draws
from regularization.data.augmentation.operations import AUGMIX, OPERATIONS, STANDARD, WIDE, Ranges, apply_operations

POLICIES = [RandAugment(), TrivialAugment(), AutoAugment(), AugMix(), RandomErasing()]
each_policy = pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)


def pictures(count: int, height: int = 12, width: int = 16) -> Tensor:
    """Smooth random images, in which neighboring pixels have different values."""
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(1)).float()
    return torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize(
    ("library", "ranges", "bins", "mode"),
    [
        (v2.RandAugment(), STANDARD, 31, "nearest"),
        (v2.AutoAugment(), STANDARD, 10, "nearest"),
        (v2.TrivialAugmentWide(), WIDE, 31, "nearest"),
        (v2.AugMix(), AUGMIX, 10, "bilinear"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_operations_equal_torchvision(library: Any, ranges: Ranges, bins: int, mode: Any) -> None:
    space = library._AUGMENTATION_SPACE
    pixels = pictures(3)
    for name in space:
        function, signed = space[name]
        magnitudes = function(bins, 12, 16)
        for position in (0, 1, 2, bins // 3, bins - 1):
            sign = -1 if signed and position % 2 else 1
            magnitude = 0.0 if magnitudes is None else sign * float(magnitudes[position])
            interpolation = v2.InterpolationMode(mode)
            expected = library._apply_image_or_video_transform(pixels, name, magnitude, interpolation, {})
            level = torch.full((3,), sign * position / (bins - 1))
            got = apply_operations(pixels, torch.full((3,), OPERATIONS.index(name)), level, ranges, mode)
            difference = (got.int() - expected.int()).abs()
            # Rounding may differ for a value between two integers and for a source halfway between two pixels.
            assert (difference > 1).float().mean() < 0.02, (name, position)
            assert name not in ("Equalize", "AutoContrast", "Posterize", "Identity") or not difference.any()


@each_policy
def test_an_image_does_not_depend_on_its_batch(policy: Augmentation) -> None:
    augment = Augment(flip=True, crop_padding=2, cutout=2, seed=3, augmentations={"policy": policy})
    pixels, index = pictures(60), torch.randperm(1000)[:60]
    whole = augment(pixels, index, epoch=5)
    order = torch.randperm(60)
    assert torch.equal(augment(pixels[order], index[order], epoch=5), whole[order])
    assert torch.equal(torch.cat([augment(pixels[i : i + 7], index[i : i + 7], 5) for i in range(0, 60, 7)]), whole)
    assert not torch.equal(augment(pixels, index, epoch=6), whole)
    assert whole.dtype == torch.uint8


@each_policy
def test_draws_depend_on_the_name_only(policy: Augmentation) -> None:
    def augmented(**parts: Augmentation | None) -> Tensor:
        result: Tensor = Augment(seed=3, augmentations=parts)(pictures(20), torch.arange(20), 0)
        return result

    assert torch.equal(augmented(a=policy, removed=None), augmented(a=policy))
    assert not torch.equal(augmented(b=policy), augmented(a=policy))


def drawn(policy: Augmentation, monkeypatch: pytest.MonkeyPatch, count: int) -> list[tuple[list[int], list[float]]]:
    """The operations and levels that a policy applies to ``count`` images, one entry per round."""
    rounds = []

    def record(pixels: Tensor, operations: Tensor, level: Tensor, *_: Any) -> Tensor:
        rounds.append((operations.tolist(), level.tolist()))
        return pixels

    monkeypatch.setattr(policies, "apply_operations", record)
    policy(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), Draws(torch.arange(count), 0))
    return rounds


def test_rand_and_trivial_augment_draw_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = drawn(RandAugment(num_ops=3, magnitude=12), monkeypatch, 14_000)
    assert len(rounds) == 3
    for operations, levels in rounds:
        counts = Counter(operations)
        assert set(counts) == set(range(14))  # all but the last one, Invert
        assert 850 < min(counts.values()) <= max(counts.values()) < 1150
        assert {round(abs(level), 6) for level in levels} == {0.4}
        negative = {OPERATIONS[name] for name, level in zip(operations, levels, strict=True) if level < 0}
        assert negative == {*OPERATIONS[1:10]}
    ((operations, levels),) = drawn(TrivialAugment(), monkeypatch, 14_000)
    assert set(operations) == set(range(14))
    assert {round(abs(level) * 30) for level in levels} == set(range(31))


def test_auto_augment_draws_pairs_with_their_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    (first, levels), (second, _) = drawn(AutoAugment(), monkeypatch, 50_000)
    pairs = Counter(zip(first, second, strict=True))
    # One of 25 pairs: ("ShearY", 0.5, 8) and ("TranslateY", 0.7, 9).
    shear, translate = OPERATIONS.index("ShearY"), OPERATIONS.index("TranslateY")
    assert pairs[shear, translate] / 50_000 == pytest.approx(0.5 * 0.7 / 25, rel=0.1)
    assert {round(abs(level) * 9) for op, level in zip(first, levels, strict=True) if op == shear} == {7, 8}


def test_augmix_is_a_mixture() -> None:
    """Mixtures of equal images are that image; a chain has from one to three operations."""
    grey = torch.full((50, 3, 6, 6), 100, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        rounds = drawn(AugMix(severity=2), patch, 3000)
        assert torch.isin(AugMix()(grey, Draws(torch.arange(50), 0)), torch.tensor([99, 100])).all()
        del rounds[9:]
    assert len(rounds) == 9
    depths = [sum(op != 0 for op in image) for image in zip(*(operations for operations, _ in rounds[:3]), strict=True)]
    assert Counter(depths).keys() == {1, 2, 3}
    assert min(Counter(depths).values()) > 850
    assert {round(abs(level) * 9) for _, levels in rounds for level in levels} == {0, 1}


def test_random_erasing_fills_rectangles() -> None:
    pixels = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    erased = (RandomErasing(0.25)(pixels, Draws(torch.arange(400), 1)) > 0).any(dim=1)
    assert 70 < erased.flatten(1).any(dim=1).sum() < 130
    for image in erased[erased.flatten(1).any(dim=1)]:
        rows, columns = image.any(dim=1), image.any(dim=0)
        height, width = int(rows.sum()), int(columns.sum())
        assert image[rows][:, columns].float().mean() > 0.98  # a rectangle; a pixel of noise may be black
        assert 0.015 < height * width / 32**2 < 0.36
        assert 0.2 < height / width < 5


def test_invalid_options() -> None:
    for name, value in (("magnitude", 31), ("num_ops", 0)):
        with pytest.raises(UserError, match=f"RandAugment: {name} must be"):
            RandAugment(**{name: value})
    with pytest.raises(UserError, match="AugMix: severity must be"):
        AugMix(11)
    with pytest.raises(UserError, match="RandomErasing: probability must be"):
        RandomErasing(1.5)
