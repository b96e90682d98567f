"""Random flips and crops of whole batches, on the device: for each image a function of (seed, epoch, image)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from regularization.errors import UserError

PaddingMode = Literal["constant", "reflect"]

_BITS = 2**64
_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix(*keys: int) -> int:
    """One well-mixed number in 0 … 2⁶³ − 1 from several, by SplitMix64 (Steele, Lea and Flood 2014, OOPSLA)."""
    state = 0
    for key in keys:
        state = (state + key + 1) * _GOLDEN % _BITS
        state = (state ^ (state >> 30)) * _FACTORS[0] % _BITS
        state = (state ^ (state >> 27)) * _FACTORS[1] % _BITS
        state ^= state >> 31
    return state >> 1


def uniform(index: Tensor, *keys: int) -> Tensor:
    """A number in [0, 1) for each image that depends on ``keys`` and the image's index alone.

    SplitMix64 evaluated at the state ``mix(*keys) + index·γ``: no generator is advanced, so batches can be drawn in
    any order, on any device, and give the same bits.

    Args:
        index: int64 ``(B,)``.
        keys: For instance seed, epoch, and which of an image's random numbers this is.

    Returns:
        float32 ``(B,)``, multiples of 2⁻²⁴.
    """
    # torch's int64 wraps around as the unsigned arithmetic of the definition does; only shifts need a mask.
    state = mix(*keys) + (index + 1) * _signed(_GOLDEN)
    state = (state ^ ((state >> 30) & (2**34 - 1))) * _signed(_FACTORS[0])
    state = (state ^ ((state >> 27) & (2**37 - 1))) * _signed(_FACTORS[1])
    state = state ^ ((state >> 31) & (2**33 - 1))
    return ((state >> 40) & (2**24 - 1)).to(torch.float32) * 2.0**-24


class Augment(nn.Module):
    """Mirrors each image with probability ½, cuts it out of itself padded, and blackens a square of it.

    Flip and crop are the usual augmentation for CIFAR (He et al. 2015, arXiv:1512.03385, section 4.2); the square is
    cutout (DeVries and Taylor 2017, arXiv:1708.04552).

    Args:
        flip: Whether to mirror left to right, or ``alternating``: a half of the images in even epochs, the other half
            in odd ones, so that two epochs show both sides of every image (Jordan 2024, arXiv:2404.00498).
        crop_padding: Pixels of padding on each side, so that an image is shifted by up to that many; 0: no crop.
        cutout: Side of the blackened square in pixels; its centre is anywhere, so it may stick out. 0: none.
        seed: Seed of the draws.
        crop: Side in pixels of the square that is cut out, at a random place; ``None`` cuts what there was before the
            padding.
        padding_mode: ``constant`` pads with black, ``reflect`` with the image mirrored at its edge.

    Raises:
        UserError: When an image is too small to be reflected.
    """

    def __init__(
        self,
        flip: bool | Literal["alternating"] = False,
        crop_padding: int = 0,
        cutout: int = 0,
        seed: int = 0,
        crop: int | None = None,
        padding_mode: PaddingMode = "constant",
    ) -> None:
        super().__init__()
        self.flip = flip
        self.crop_padding = crop_padding
        self.cutout = cutout
        self.seed = seed
        self.crop = crop
        self.padding_mode = padding_mode

    def forward(self, pixels: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Augmented ``pixels``, uint8 ``(B, 3, H, W)``, of the images at ``index``, int64 ``(B,)``, in ``epoch``."""
        if self.flip or self.crop_padding or self.crop:
            pixels = self._flip_and_crop(pixels, index, epoch)
        if self.cutout:
            pixels = self._cut_out(pixels, index, epoch)
        return pixels

    def _flip_and_crop(self, pixels: Tensor, index: Tensor, epoch: int) -> Tensor:
        height, width = (self.crop, self.crop) if self.crop else pixels.shape[-2:]
        if self.crop_padding:
            pixels = self._padded(pixels)
        if pixels.shape[-2:] != (height, width):
            top = self._offset(index, epoch, 1, pixels.shape[-2] - height)
            left = self._offset(index, epoch, 2, pixels.shape[-1] - width)
            # A view of every cut there could be, (B, 3, ups, lefts, height, width), of which each image takes one.
            cuts = pixels.unfold(2, height, 1).unfold(3, width, 1)
            pixels = cuts[torch.arange(len(index), device=pixels.device), :, top, left]
        if self.flip:
            pixels = torch.where(self._mirrored(index, epoch)[:, None, None, None], pixels.flip(-1), pixels)
        return pixels

    def _padded(self, pixels: Tensor) -> Tensor:
        if self.padding_mode == "constant":
            return functional.pad(pixels, (self.crop_padding,) * 4)
        if self.crop_padding >= min(pixels.shape[-2:]):
            size = "×".join(map(str, pixels.shape[-2:]))
            raise UserError(f"--data.crop_padding {self.crop_padding} is too much to reflect images of {size} pixels")
        # By selection: older releases of PyTorch reflect floating-point numbers only.
        down, across = (_reflected(length, self.crop_padding, pixels.device) for length in pixels.shape[-2:])
        return pixels[:, :, down[:, None], across]

    def _mirrored(self, index: Tensor, epoch: int) -> Tensor:
        """Which images are mirrored, bool ``(B,)``."""
        if self.flip == "alternating":
            return (uniform(index, self.seed, 0, 0) < 0.5) ^ (epoch % 2 == 1)
        return uniform(index, self.seed, epoch, 0) < 0.5

    def _cut_out(self, pixels: Tensor, index: Tensor, epoch: int) -> Tensor:
        rows, columns = (self._square(index, epoch, draw, pixels.shape[draw - 5]) for draw in (3, 4))
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return pixels.masked_fill(inside, 0)

    def _square(self, index: Tensor, epoch: int, draw: int, length: int) -> Tensor:
        """Which pixels of the axis the square covers, bool ``(B, length)``."""
        centre = (uniform(index, self.seed, epoch, draw) * length).long()[:, None]
        pixel = torch.arange(length, device=index.device)
        start = centre - self.cutout // 2
        return (pixel >= start) & (pixel < start + self.cutout)

    def _offset(self, index: Tensor, epoch: int, draw: int, most: int) -> Tensor:
        """A whole number from 0 to ``most`` for each image, int64 ``(B,)``."""
        return (uniform(index, self.seed, epoch, draw) * (most + 1)).long()


def _reflected(length: int, padding: int, device: torch.device) -> Tensor:
    """Which pixels make up an axis that is reflected at both ends, which are not repeated; at most length − 1."""
    return length - 1 - (torch.arange(-padding, length + padding, device=device).abs() - (length - 1)).abs()


def _signed(number: int) -> int:
    return number - _BITS if number >= _BITS // 2 else number
