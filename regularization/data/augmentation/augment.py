"""Random flips, crops and cutout of whole batches on any device, each a function of (seed, epoch, image)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor, nn
from torch.nn import functional

from regularization.errors import UserError

PaddingMode = Literal["constant", "reflect"]

# SplitMix64's modulus, its increment γ and its two multipliers.
_MODULUS = 2**64
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
# The indices of the random numbers that are drawn for an image in an epoch.
_FLIP, _TOP, _LEFT, _CUTOUT_ROW, _CUTOUT_COLUMN = range(5)


def mix(*keys: int) -> int:
    """Hashes several integers to one in 0 … 2⁶³ − 1, by SplitMix64 (Steele, Lea and Flood 2014, OOPSLA)."""
    state = 0
    for key in keys:
        state = (state + key + 1) * _GAMMA % _MODULUS
        state = (state ^ (state >> 30)) * _MULTIPLIERS[0] % _MODULUS
        state = (state ^ (state >> 27)) * _MULTIPLIERS[1] % _MODULUS
        state ^= state >> 31
    return state >> 1


def uniform(index: Tensor, *keys: int) -> Tensor:
    """Random numbers in [0, 1), one per image, that depend only on ``keys`` and the image's index.

    SplitMix64 is evaluated at the state ``mix(*keys) + (index + 1)·γ``. No generator is advanced, so batches can be
    drawn in any order and on any device with the same bits.

    Args:
        index: int64 ``(B,)``.
        keys: For instance the seed, the epoch, and the number of the draw within the image.

    Returns:
        float32 ``(B,)``, multiples of 2⁻²⁴.
    """
    # torch's int64 wraps around like the unsigned arithmetic of the definition; only the shifts need a mask.
    state = mix(*keys) + (index + 1) * _signed(_GAMMA)
    state = (state ^ ((state >> 30) & (2**34 - 1))) * _signed(_MULTIPLIERS[0])
    state = (state ^ ((state >> 27) & (2**37 - 1))) * _signed(_MULTIPLIERS[1])
    state = state ^ ((state >> 31) & (2**33 - 1))
    return ((state >> 40) & (2**24 - 1)).to(torch.float32) * 2.0**-24


class Draws:
    """The random numbers of the images of a batch; each call draws the next number of every image.

    Args:
        index: Indices of the images, int64 ``(B,)``.
        keys: What the numbers depend on besides the image.
    """

    def __init__(self, index: Tensor, *keys: int) -> None:
        self._index = index
        self._keys = keys
        self._count = 0

    def uniform(self) -> Tensor:
        """Numbers in [0, 1), float32 ``(B,)``."""
        self._count += 1
        return uniform(self._index, *self._keys, self._count)

    def integer(self, end: int) -> Tensor:
        """Integers from 0 to ``end`` − 1, int64 ``(B,)``."""
        return (self.uniform() * end).long()

    def sign(self) -> Tensor:
        """−1 or 1, float32 ``(B,)``."""
        return 1 - 2 * self.integer(2).float()

    def noise(self, pixels: Tensor) -> Tensor:
        """Random pixels, uint8 in the shape of ``pixels``, ``(B, 3, H, W)``."""
        self._count += 1
        size = pixels[0].numel()
        index = self._index[:, None] * size + torch.arange(size, device=pixels.device)
        return (uniform(index, *self._keys, self._count) * 256).to(torch.uint8).view(pixels.shape)


class Augmentation(ABC):
    """Base class of the augmentations in ``data.augmentations``, which are applied after flips and crops."""

    @abstractmethod
    def __call__(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Augments ``pixels``, uint8 ``(B, 3, H, W)``; all randomness must come from ``draws``."""


class Augment(nn.Module):
    """Flips images horizontally, crops them at random positions after padding, and applies cutout.

    Flip and crop are the usual augmentation for CIFAR (He et al. 2015, arXiv:1512.03385, section 4.2). Cutout sets a
    random square to black (DeVries and Taylor 2017, arXiv:1708.04552).

    Args:
        flip: ``True`` flips each image with probability ½. ``alternating`` flips one half of the images in even epochs
            and the other half in odd epochs, so that two epochs show both sides of every image (Jordan 2024,
            arXiv:2404.00498).
        crop_padding: Padding on each side in pixels; the crop shifts an image by up to this many pixels. 0: no padding.
        cutout: Side of the black square in pixels. Its centre can be any pixel, so it may extend beyond the image.
            0: no cutout.
        seed: Seed of the random numbers.
        crop: Side of the square crop in pixels; ``None`` crops to the size before the padding.
        padding_mode: ``constant`` pads with black, ``reflect`` with the image mirrored at its edge.
        augmentations: Applied between crop and cutout, by name; None stands for one that a later config removed.

    Raises:
        UserError: When ``forward`` gets images that are too small to be reflected.
    """

    def __init__(
        self,
        flip: bool | Literal["alternating"] = False,
        crop_padding: int = 0,
        cutout: int = 0,
        seed: int = 0,
        crop: int | None = None,
        padding_mode: PaddingMode = "constant",
        augmentations: Mapping[str, Augmentation | None] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.flip = flip
        self.crop_padding = crop_padding
        self.cutout = cutout
        self.seed = seed
        self.crop = crop
        self.padding_mode = padding_mode
        self.augmentations = {name: part for name, part in augmentations.items() if part is not None}

    def forward(self, pixels: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Augments ``pixels``, uint8 ``(B, 3, H, W)``, of the images ``index``, int64 ``(B,)``, for ``epoch``."""
        if self.flip or self.crop_padding or self.crop:
            pixels = self._flip_and_crop(pixels, index, epoch)
        for name, augmentation in self.augmentations.items():
            # The random numbers depend on the name, so removing one augmentation does not change those of the others.
            pixels = augmentation(pixels, Draws(index, self.seed, epoch, crc32(name.encode())))
        if self.cutout:
            pixels = self._apply_cutout(pixels, index, epoch)
        return pixels

    def _flip_and_crop(self, pixels: Tensor, index: Tensor, epoch: int) -> Tensor:
        height, width = (self.crop, self.crop) if self.crop else pixels.shape[-2:]
        if self.crop_padding:
            pixels = self._pad(pixels)
        if pixels.shape[-2:] != (height, width):
            top = self._offset(index, epoch, _TOP, pixels.shape[-2] - height)
            left = self._offset(index, epoch, _LEFT, pixels.shape[-1] - width)
            # A view of all possible crops, (B, 3, tops, lefts, height, width), of which each image takes one.
            crops = pixels.unfold(2, height, 1).unfold(3, width, 1)
            pixels = crops[torch.arange(len(index), device=pixels.device), :, top, left]
        if self.flip:
            pixels = torch.where(self._flipped(index, epoch)[:, None, None, None], pixels.flip(-1), pixels)
        return pixels

    def _pad(self, pixels: Tensor) -> Tensor:
        if self.padding_mode == "constant":
            return functional.pad(pixels, (self.crop_padding,) * 4)
        if self.crop_padding >= min(pixels.shape[-2:]):
            size = "×".join(map(str, pixels.shape[-2:]))
            raise UserError(f"--data.crop_padding {self.crop_padding} is too large to reflect images of {size} pixels")
        # Padded by indexing, because older releases of PyTorch reflect floating-point numbers only.
        rows, columns = (_reflected_index(length, self.crop_padding, pixels.device) for length in pixels.shape[-2:])
        return pixels[:, :, rows[:, None], columns]

    def _flipped(self, index: Tensor, epoch: int) -> Tensor:
        """Which images are flipped, bool ``(B,)``."""
        if self.flip == "alternating":
            return (uniform(index, self.seed, 0, _FLIP) < 0.5) ^ (epoch % 2 == 1)
        return uniform(index, self.seed, epoch, _FLIP) < 0.5

    def _apply_cutout(self, pixels: Tensor, index: Tensor, epoch: int) -> Tensor:
        rows = self._covered(index, epoch, _CUTOUT_ROW, pixels.shape[-2])
        columns = self._covered(index, epoch, _CUTOUT_COLUMN, pixels.shape[-1])
        return pixels.masked_fill(rows[:, None, :, None] & columns[:, None, None, :], 0)

    def _covered(self, index: Tensor, epoch: int, draw: int, length: int) -> Tensor:
        """Which pixels along an axis the square of cutout covers, bool ``(B, length)``."""
        centre = (uniform(index, self.seed, epoch, draw) * length).long()[:, None]
        pixel = torch.arange(length, device=index.device)
        start = centre - self.cutout // 2
        return (pixel >= start) & (pixel < start + self.cutout)

    def _offset(self, index: Tensor, epoch: int, draw: int, maximum: int) -> Tensor:
        """An integer from 0 to ``maximum`` for each image, int64 ``(B,)``."""
        return (uniform(index, self.seed, epoch, draw) * (maximum + 1)).long()


def _reflected_index(length: int, padding: int, device: torch.device) -> Tensor:
    """Indices of the pixels along an axis with reflected padding: the end pixels are not repeated; padding < length."""
    return length - 1 - (torch.arange(-padding, length + padding, device=device).abs() - (length - 1)).abs()


def _signed(number: int) -> int:
    return number - _MODULUS if number >= _MODULUS // 2 else number
