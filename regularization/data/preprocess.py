"""Resize, crop and normalize whole batches on any device: the same module for training, evaluation and serving."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

_CACHED = 2**17  # pixels of the output, 1.5 MB, that are made at a time on a CPU
_PRECISION = 2**22  # PIL keeps its weights as integers over 2²².


class Preprocess(nn.Module):
    """From uint8 images ``(B, 3, H, W)`` to float32 ``(B, 3, size, size)``: (cut / 255 − mean) / std.

    Of the image, its short side resized, the centre is cut out: first the square one of ``resize`` pixels, of that the
    one of ``size``. Equal to torchvision's ``Resize``, ``CenterCrop``, ``ToTensor``, ``Normalize`` on PIL images to the
    bit (where an odd number of pixels is left over, the smaller half is cut off first). Pillow 13 begins with the
    vertical pass where it shrinks a tall image, of 2.5 to 1 and more: there some values differ by one.

    Args:
        size: Height and width of what comes out, in pixels; ``None`` keeps the images' own.
        mean: Mean of each channel, on the scale 0 … 1.
        std: Standard deviation of each channel, likewise.
        resize: Pixels that the short side is resized to, at least ``size``; ``None`` for ``size``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int | None = None,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        resize: int | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.resize = resize or size
        self._said = {"mean": list(mean), "std": list(std)}
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def settings(self, size: int | None) -> dict[str, Any]:
        """The arguments that make this module again, for images of ``size`` where it keeps their own."""
        return {"size": self.size or size, "resize": self.resize or size, **self._said}

    def forward(self, pixels: Tensor) -> Tensor:
        """The network's input, float32 ``(B, 3, size, size)``, from uint8 ``(B, 3, H, W)``."""
        if pixels.device.type != "cpu" or torch.compiler.is_compiling():
            return self._prepared(pixels)
        # On a CPU a few images at a time: what lies between two steps then stays in its cache.
        height, width = (self.size, self.size) if self.size else pixels.shape[-2:]
        result = torch.empty(*pixels.shape[:2], height, width)
        few = max(1, _CACHED // (height * width))
        for some, into in zip(torch.split(pixels, few), torch.split(result, few), strict=True):
            self._prepared(some, into)
        return result

    def _prepared(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        if self.size is None or self.resize is None:
            cut = pixels.float()
        else:
            edge = (self.resize - self.size) // 2
            cut = square(pixels, self.resize)[:, :, edge : edge + self.size, edge : edge + self.size]
        if torch.compiler.is_compiling():
            # Exporters of torch 2.6 can't write into a part of a tensor.
            return cut.div(255).sub(self.mean).div(self.std)
        # In this order, in place: it is what ToTensor and Normalize do, to the last bit.
        return torch.div(cut.div_(255).sub_(self.mean), self.std, out=out)


def square(pixels: Tensor, side: int) -> Tensor:
    """The centre of images whose short side is resized as PIL does it: whole numbers as float32 ``(B, C, side, side)``.

    Antialiased bilinear: two passes, horizontal then vertical, each a matrix product rounded half up to whole numbers,
    with PIL's weights (Pillow's ``Resample.c``). Only what is inside the square is computed. uint8 ``(B, C, H, W)`` in,
    any H and W; the long side becomes ⌊side · long / short⌋.
    """
    height, width = pixels.shape[-2:]
    exporting = torch.compiler.is_compiling()
    if not exporting and height == width == side:
        return pixels.float()
    short = torch.sym_min(height, width)
    sizes: list[Any] = [(old, side * old // short, side) for old in (height, width)]
    # In an exported graph sizes are unknown, so weights are a part of it.
    exact = not exporting and all(_single_is_exact(old, new) for old, new, _ in sizes)
    dtype = torch.float32 if exact else torch.float64
    if pixels.device.type == "mps":
        dtype = torch.float32  # it has no float64: where PIL breaks a tie otherwise, a value differs by one
    make: Callable[..., Tensor] = _weights_on if exporting else _cached
    vertical, horizontal = (make(*one, pixels.device, dtype) for one in sizes)
    rows = (pixels.to(dtype) @ horizontal.T).add_(0.5).floor_()
    if not exporting and 1 < short <= side:
        return _enlarged(rows, *_taps(*sizes[0], pixels.device, dtype)).add_(0.5).floor_().float()
    return (vertical @ rows).add_(0.5).floor_().float()


def _enlarged(rows: Tensor, first: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """``vertical @ rows`` where a row is made of two at most, in a third of the matrix product's time."""
    return rows.index_select(-2, first).mul_(one).addcmul_(rows.index_select(-2, first + 1), other)


def _single_is_exact(old: int, new: int) -> bool:
    """Whether float32 can't change the rounding.

    Enlarged k times, a pixel is a whole number over 2k. For odd k that is never half-way between two numbers, for a
    power of two it is exact. Elsewhere ties can occur, and PIL breaks them by its rounded weights.
    """
    factor, rest = divmod(new, old)
    return rest == 0 and (factor % 2 == 1 or factor & (factor - 1) == 0)


def weights(old: int, new: int, side: int) -> Tensor:
    """PIL's bilinear weights for the middle ``side`` of ``new`` pixels made from ``old``, float64 ``(side, old)``.

    A triangle as wide as the coarser of the two pixel grids.
    """
    # As tensors: a quotient of sizes would become float32 in an exported graph.
    scale = torch.full((1,), old, dtype=torch.float64) / torch.full((1,), new, dtype=torch.float64)
    support = scale.clamp(min=1.0)
    centre = (torch.arange(side, dtype=torch.float64)[:, None] + (new - side) // 2 + 0.5) * scale
    pixel = torch.arange(old)[None, :]
    first = (centre - support + 0.5).int().clamp(min=0)
    last = (centre + support + 0.5).int().clamp(max=old)
    triangle: Tensor = (1 - ((pixel - centre + 0.5) / support).abs()).clamp(min=0)
    triangle = triangle * ((pixel >= first) & (pixel < last))
    shares = triangle / triangle.sum(dim=1, keepdim=True)
    return (shares * _PRECISION + 0.5).floor() / _PRECISION


def _weights_on(old: int, new: int, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return weights(old, new, side).to(device, dtype)


@lru_cache(64)
def _taps(old: int, new: int, side: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Where ``weights`` enlarges: the first of the two pixels that one is made of, ``(side,)``, then their weights.

    The other one is behind it; both weights are ``(side, 1)``.
    """
    dense = weights(old, new, side)
    first = (dense > 0).int().argmax(dim=1).clamp(max=old - 2)[:, None]
    pair = (dense.gather(1, place).to(device, dtype) for place in (first, first + 1))
    return first.flatten().to(device), *pair


# Pictures of one's own come in any size: the newest few are kept, not all.
_cached = lru_cache(64)(_weights_on)
