"""The operations of augmentation policies, applied to batches with a separate operation and strength per image."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as kernels


class Ranges(NamedTuple):
    """The maximum strengths of the operations of a policy.

    Attributes:
        shear: Pixels per pixel.
        translate: Fraction of the image's side; pixels if it is above 1.
        rotate: Degrees.
        enhance: Maximum distance from 1 of the factor of brightness, color, contrast and sharpness.
        bits: The number of bits of ``Posterize`` in its weakest and in its strongest form.
    """

    shear: float
    translate: float
    rotate: float
    enhance: float
    bits: tuple[int, int]


STANDARD = Ranges(shear=0.3, translate=150 / 331, rotate=30, enhance=0.9, bits=(8, 4))
WIDE = Ranges(shear=0.99, translate=32, rotate=135, enhance=0.99, bits=(8, 2))
AUGMIX = Ranges(shear=0.3, translate=1 / 3, rotate=30, enhance=0.9, bits=(4, 0))

_WARPS = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
# Each of torchvision's kernels with factor 0 gives the image from which the enhanced one is extrapolated.
_ENHANCEMENTS = {
    "Brightness": kernels.adjust_brightness,
    "Color": kernels.adjust_saturation,
    "Contrast": kernels.adjust_contrast,
    "Sharpness": kernels.adjust_sharpness,
}
_FIXED = {"AutoContrast": kernels.autocontrast, "Equalize": kernels.equalize, "Invert": kernels.invert}
OPERATIONS = ("Identity", *_WARPS, *_ENHANCEMENTS, "Posterize", "Solarize", *_FIXED)
_SIGNED = torch.tensor([name in _WARPS or name in _ENHANCEMENTS for name in OPERATIONS])


def apply_operations(
    pixels: Tensor,
    operations: Tensor,
    level: Tensor,
    ranges: Ranges,
    mode: Literal["nearest", "bilinear"] = "nearest",
) -> Tensor:
    """Applies a separate operation to each image; images with the same operation are processed together.

    Args:
        pixels: uint8 ``(B, 3, H, W)``.
        operations: Indices into ``OPERATIONS``, int64 ``(B,)``.
        level: Strength from 0 to 1, negative for the opposite direction; float32 ``(B,)``.
        ranges: The strengths that correspond to level 1.
        mode: Interpolation of shears, translations and rotations.

    Returns:
        uint8 ``(B, 3, H, W)``.
    """
    result = pixels.clone()
    counts: list[int] = torch.bincount(operations, minlength=len(OPERATIONS)).tolist()
    parts = torch.split(operations.argsort(stable=True), counts)
    for name, part in zip(OPERATIONS[1:], parts[1:], strict=True):
        if len(part):
            result[part] = _apply(name, pixels[part], level[part][:, None, None, None], ranges, mode)
    return result


def _apply(name: str, pixels: Tensor, level: Tensor, ranges: Ranges, mode: str) -> Tensor:
    """The operation ``name`` with ``level``, ``(N, 1, 1, 1)``, of ``pixels``, uint8 ``(N, 3, H, W)``."""
    if name in _WARPS:
        return _warp(name, pixels, level, ranges, mode)
    if name in _ENHANCEMENTS:
        factor = 1 + ranges.enhance * level
        degenerate = _ENHANCEMENTS[name](pixels, 0.0)
        enhanced: Tensor = (factor * pixels + (1 - factor) * degenerate).clamp(0, 255)
        return enhanced.to(torch.uint8)
    if name == "Posterize":
        weakest, strongest = ranges.bits
        dropped = 8 - weakest + (level * (weakest - strongest)).round().int()
        return pixels & (256 - 2**dropped).to(torch.uint8)
    if name == "Solarize":
        return torch.where(pixels >= 255 * (1 - level), 255 - pixels, pixels)
    result: Tensor = _FIXED[name](pixels)
    return result


def _warp(name: str, pixels: Tensor, level: Tensor, ranges: Ranges, mode: str) -> Tensor:
    """Shears, shifts or rotates; pixels from outside the image are black.

    The source row and column of each pixel are computed in double precision, and without matrix products, because the
    last bits of a matrix product could depend on the number of images.
    """
    height, width = pixels.shape[-2:]
    level = level[:, 0].double() if pixels.device.type != "mps" else level[:, 0]
    x = torch.arange(width, device=level.device, dtype=level.dtype) - (width - 1) / 2
    y = torch.arange(height, device=level.device, dtype=level.dtype)[:, None] - (height - 1) / 2
    angle = torch.deg2rad(ranges.rotate * level)
    across, down = (ranges.translate * (1 if ranges.translate > 1 else side) * level for side in (width, height))
    sources = {
        "ShearX": lambda: (x + ranges.shear * level * (y + height / 2), y),
        "ShearY": lambda: (x, y + ranges.shear * level * (x + width / 2)),
        "TranslateX": lambda: (x - across.trunc(), y),
        "TranslateY": lambda: (x, y - down.trunc()),
        "Rotate": lambda: (angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y),
    }
    column, row = (source.expand(len(pixels), height, width) for source in sources[name]())
    grid = torch.stack([column * (2 / width), row * (2 / height)], dim=-1).float()
    warped = functional.grid_sample(pixels.float(), grid, mode, padding_mode="zeros", align_corners=False)
    return warped.round_().to(torch.uint8)


def signed(operations: Tensor, level: Tensor) -> Tensor:
    """``level``, without its sign if the operation has only one direction; both ``(B,)``."""
    return torch.where(_SIGNED.to(operations.device)[operations], level, level.abs())
