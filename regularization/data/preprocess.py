"""Resize and normalize whole batches on any device: the same module for training, evaluation and serving."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

_PRECISION = 2**22  # PIL keeps its weights as integers over 2²².


class Preprocess(nn.Module):
    """From uint8 images ``(B, 3, H, W)`` to float32 ``(B, 3, size, size)``: (resized / 255 − mean) / std.

    Equal to torchvision's ``Resize``, ``ToTensor``, ``Normalize`` on PIL images to the bit.

    Args:
        size: Height and width after resizing, in pixels; ``None`` keeps the images' own.
        mean: Mean of each channel, on the scale 0 … 1.
        std: Standard deviation of each channel, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, size: int | None = None, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
    ) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """The network's input, float32 ``(B, 3, size, size)``, from uint8 ``(B, 3, H, W)``."""
        resized = pixels.float() if self.size is None else resize(pixels, self.size)
        # In this order, in place: it is what ToTensor and Normalize do, to the last bit.
        return resized.div_(255).sub_(self.mean).div_(self.std)


def resize(pixels: Tensor, size: int) -> Tensor:
    """Antialiased bilinear resize as PIL does it: whole numbers 0 … 255 as float32 ``(B, C, size, size)``.

    Two passes, horizontal then vertical, each a matrix product rounded half up to whole numbers, with PIL's weights
    (Pillow's ``Resample.c``). uint8 ``(B, C, H, W)`` in, any H and W.
    """
    height, width = pixels.shape[-2:]
    if (height, width) == (size, size):
        return pixels.float()
    dtype = torch.float32 if _single_is_exact(height, size) and _single_is_exact(width, size) else torch.float64
    if pixels.device.type == "mps":
        dtype = torch.float32  # it has no float64: where PIL breaks a tie otherwise, a value differs by one
    horizontal = _weights(width, size, pixels.device, dtype)
    vertical = _weights(height, size, pixels.device, dtype)
    rows = (pixels.to(dtype) @ horizontal.T).add_(0.5).floor_()
    return (vertical @ rows).add_(0.5).floor_().float()


def _single_is_exact(old: int, new: int) -> bool:
    """Whether float32 can't change the rounding.

    Enlarged k times, a pixel is a whole number over 2k. For odd k that is never half-way between two numbers, for a
    power of two it is exact. Elsewhere ties can occur, and PIL breaks them by its rounded weights.
    """
    factor, rest = divmod(new, old)
    return rest == 0 and (factor % 2 == 1 or factor & (factor - 1) == 0)


@cache
def _weights(old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """PIL's bilinear weights ``(new, old)``: a triangle as wide as the coarser of the two pixel grids."""
    scale = old / new
    support = max(scale, 1.0)
    centre = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * scale
    pixel = torch.arange(old)[None, :]
    first = (centre - support + 0.5).int().clamp(min=0)
    last = (centre + support + 0.5).int().clamp(max=old)
    triangle = (1 - ((pixel - centre + 0.5) / support).abs()).clamp(min=0)
    triangle = triangle * ((pixel >= first) & (pixel < last))
    weights = triangle / triangle.sum(dim=1, keepdim=True)
    return ((weights * _PRECISION + 0.5).floor() / _PRECISION).to(dtype).to(device)
