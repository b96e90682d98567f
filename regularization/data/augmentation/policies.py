"""Augmentation policies and random erasing for batches on any device, each a function of (seed, epoch, image)."""

from typing import Literal

import torch
from torch import Tensor

from regularization.data.augmentation.augment import Augmentation, Draws
from regularization.data.augmentation.operations import AUGMIX, OPERATIONS, STANDARD, WIDE, apply_operations, signed
from regularization.errors import UserError
from regularization.internals.torchvision import auto_augment_pairs


class RandAugment(Augmentation):
    """Applies ``num_ops`` of 14 operations, drawn per image, all with the same magnitude.

    Cubuk et al. 2019 (arXiv:1909.13719), with the operations and ranges of torchvision.

    Args:
        num_ops: Number of operations in a row.
        magnitude: Strength of the operations, from 0 to 30.
    """

    def __init__(self, num_ops: int = 2, magnitude: int = 9) -> None:
        _check(num_ops >= 1, f"RandAugment: num_ops must be at least 1, not {num_ops}")
        _check(0 <= magnitude <= 30, f"RandAugment: magnitude must be from 0 to 30, not {magnitude}")
        self.num_ops, self.magnitude = num_ops, magnitude

    def __call__(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Applies ``num_ops`` operations to ``pixels``, uint8 ``(B, 3, H, W)``."""
        for _ in range(self.num_ops):
            operations = draws.integer(len(OPERATIONS) - 1)  # all but Invert
            level = signed(operations, draws.sign() * (self.magnitude / 30))
            pixels = apply_operations(pixels, operations, level, STANDARD)
        return pixels


class TrivialAugment(Augmentation):
    """Applies one of 14 operations; operation and magnitude are drawn per image, so there is nothing to tune.

    The variant "wide" of Müller and Hutter 2021 (arXiv:2103.10158), with the operations and ranges of torchvision.
    """

    def __call__(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Applies one operation to ``pixels``, uint8 ``(B, 3, H, W)``."""
        operations = draws.integer(len(OPERATIONS) - 1)  # all but Invert
        level = draws.sign() * (draws.integer(31).float() / 30)
        return apply_operations(pixels, operations, signed(operations, level), WIDE)


class AutoAugment(Augmentation):
    """Applies one of 25 pairs of operations, drawn per image; the pairs were found by a search on a data set.

    Cubuk et al. 2018 (arXiv:1805.09501). Each operation of a pair has a probability and a magnitude of its own.

    Args:
        policy: The data set on which the pairs were found.
    """

    def __init__(self, policy: Literal["cifar10", "imagenet", "svhn"] = "cifar10") -> None:
        steps = (step for pair in auto_augment_pairs(policy) for step in pair)
        names, probabilities, magnitudes = zip(*steps, strict=True)
        self._operations = torch.tensor([OPERATIONS.index(name) for name in names]).view(-1, 2)
        self._probabilities = torch.tensor(probabilities).view(-1, 2)
        self._levels = torch.tensor([(magnitude or 0) / 9 for magnitude in magnitudes]).view(-1, 2)

    def __call__(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Applies two operations to ``pixels``, uint8 ``(B, 3, H, W)``."""
        pair = draws.integer(len(self._operations))
        tables = (self._operations, self._probabilities, self._levels)
        operations, probabilities, levels = (table.to(pixels.device)[pair] for table in tables)
        for step in range(2):
            applied = draws.uniform() < probabilities[:, step]
            level = signed(operations[:, step], draws.sign() * levels[:, step])
            pixels = apply_operations(pixels, torch.where(applied, operations[:, step], 0), level, STANDARD)
        return pixels


class AugMix(Augmentation):
    """Mixes each image with three augmented versions, each made by one to three operations, with random weights.

    Hendrycks et al. 2019 (arXiv:1912.02781) with α = 1, without the consistency loss of the paper.

    Args:
        severity: Maximum strength of the operations, from 1 to 10.
    """

    chains = depth = 3

    def __init__(self, severity: int = 3) -> None:
        _check(1 <= severity <= 10, f"AugMix: severity must be from 1 to 10, not {severity}")
        self.severity = severity

    def __call__(self, pixels: Tensor, draws: Draws) -> Tensor:
        """The mixture for ``pixels``, uint8 ``(B, 3, H, W)``."""
        share = draws.uniform()  # Beta(1, 1)
        cuts = torch.stack([draws.uniform() for _ in range(self.chains - 1)]).sort(dim=0).values
        # The lengths of the parts of [0, 1] between sorted uniform numbers have the distribution Dirichlet(1, …, 1).
        weights = torch.diff(cuts, dim=0, prepend=torch.zeros_like(cuts[:1]), append=torch.ones_like(cuts[:1]))
        mixture = (1 - share)[:, None, None, None] * pixels
        for weight in share * weights:
            mixture += weight[:, None, None, None] * self._chain(pixels, draws)
        return mixture.clamp_(0, 255).to(torch.uint8)

    def _chain(self, pixels: Tensor, draws: Draws) -> Tensor:
        depth = 1 + draws.integer(self.depth)
        for step in range(self.depth):
            drawn = 1 + draws.integer(len(OPERATIONS) - 2)  # all but Identity and Invert
            level = signed(drawn, draws.sign() * (draws.integer(self.severity).float() / 9))
            pixels = apply_operations(pixels, torch.where(step < depth, drawn, 0), level, AUGMIX, "bilinear")
        return pixels


class RandomErasing(Augmentation):
    """Fills a rectangle of an image with random pixels, with a given probability.

    Zhong et al. 2017 (arXiv:1708.04896): the rectangle has 2% to a third of the area, and an aspect ratio from 0.3 to
    3.3.

    Args:
        probability: Probability for each image.
    """

    def __init__(self, probability: float = 0.5) -> None:
        _check(0 <= probability <= 1, f"RandomErasing: probability must be between 0 and 1, not {probability}")
        self.probability = probability

    def __call__(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Erases a rectangle in randomly chosen images of ``pixels``, uint8 ``(B, 3, H, W)``."""
        erased = draws.uniform() < self.probability
        height, width = pixels.shape[-2:]
        area = (0.02 + (1 / 3 - 0.02) * draws.uniform()) * (height * width)
        ratio = 0.3 * 11 ** draws.uniform()
        rows = _interval(height, (area * ratio).sqrt(), draws)
        columns = _interval(width, (area / ratio).sqrt(), draws)
        inside = erased[:, None, None, None] & rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, draws.noise(pixels), pixels)


def _interval(length: int, size: Tensor, draws: Draws) -> Tensor:
    """Which pixels along an axis are in an interval of ``size``, ``(B,)``, at a random place: bool ``(B, length)``."""
    size = size.round().clamp(1, length)
    start = (draws.uniform() * (length - size + 1)).floor()
    pixel = torch.arange(length, device=size.device)
    return (pixel >= start[:, None]) & (pixel < (start + size)[:, None])


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
