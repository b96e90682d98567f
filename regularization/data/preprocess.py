"""Resizes, crops and normalizes batches on any device: one module for training, evaluation and inference."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

# Pixels of output that are computed at a time on a CPU: 1.5 MB of float32, which fit into its cache.
_CHUNK = 2**17
# PIL stores its weights as integer multiples of 2⁻²².
_PRECISION = 2**22


class Preprocess(nn.Module):
    """Maps uint8 images ``(B, 3, H, W)`` to float32 ``(B, 3, size, size)``: (crop / 255 − mean) / std.

    The short side of an image is resized to ``resize`` pixels; then the central square of ``size`` pixels is cropped.
    The result is bit-identical to that of torchvision's ``Resize``, ``CenterCrop``, ``ToTensor`` and ``Normalize`` on
    PIL images (if an odd number of pixels is cropped off, this module crops the smaller half at the top or left).
    Pillow 13 runs the vertical pass first when it shrinks an image whose height is at least 2.5 times its width; some
    values then differ by one.

    Args:
        size: Height and width of the output in pixels; ``None`` keeps those of the images.
        mean: Mean of each channel, on the scale 0 … 1.
        std: Standard deviation of each channel, on the same scale.
        resize: Length in pixels that the short side is resized to, at least ``size``; ``None`` for ``size``.
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
        self._normalization = {"mean": list(mean), "std": list(std)}
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def settings(self, size: int | None) -> dict[str, Any]:
        """The arguments that create this module again; ``size`` replaces a size of ``None``."""
        return {"size": self.size or size, "resize": self.resize or size, **self._normalization}

    def forward(self, pixels: Tensor) -> Tensor:
        """The input of the network, float32 ``(B, 3, size, size)``, from uint8 ``(B, 3, H, W)``."""
        if pixels.device.type != "cpu" or torch.compiler.is_compiling():
            return self._transform(pixels)
        # On a CPU, process a few images at a time, so that intermediate results stay in its cache.
        height, width = (self.size, self.size) if self.size else pixels.shape[-2:]
        result = torch.empty(*pixels.shape[:2], height, width)
        images = max(1, _CHUNK // (height * width))
        for chunk, out in zip(torch.split(pixels, images), torch.split(result, images), strict=True):
            self._transform(chunk, out)
        return result

    def _transform(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        if self.size is None or self.resize is None:
            crop = pixels.float()
        else:
            margin = (self.resize - self.size) // 2
            crop = square(pixels, self.resize)[:, :, margin : margin + self.size, margin : margin + self.size]
        if torch.compiler.is_compiling():
            # The exporters of torch 2.6 do not support writing into a view.
            return crop.div(255).sub(self.mean).div(self.std)
        # The same operations as in ToTensor and Normalize, in the same order and in place: the result is bit-identical.
        return torch.div(crop.div_(255).sub_(self.mean), self.std, out=out)


def square(pixels: Tensor, side: int) -> Tensor:
    """Resizes the short side of images to ``side`` pixels as PIL does, and crops the central square.

    The resize is antialiased and bilinear: a horizontal and a vertical pass, each a matrix product with PIL's weights
    (Pillow's ``Resample.c``), rounded half up to integers. Only what lies inside the square is computed. The long side
    becomes ⌊side · long / short⌋.

    Args:
        pixels: uint8 ``(B, C, H, W)``, any H and W.
        side: Height and width of the result in pixels.

    Returns:
        Integers as float32 ``(B, C, side, side)``.
    """
    height, width = pixels.shape[-2:]
    exporting = torch.compiler.is_compiling()
    if not exporting and height == width == side:
        return pixels.float()
    short = torch.sym_min(height, width)
    # For each axis: the original length, the length after the resize, and the length of the crop.
    lengths: list[Any] = [(old, side * old // short, side) for old in (height, width)]
    # In an exported graph lengths are symbolic, and the weights are computed in the graph.
    exact = not exporting and all(_is_exact_in_float32(old, new) for old, new, _ in lengths)
    dtype = torch.float32 if exact else torch.float64
    if pixels.device.type == "mps":
        dtype = torch.float32  # mps has no float64: a value differs by one where PIL breaks a tie the other way
    make: Callable[..., Tensor] = _weights_on if exporting else _cached_weights
    vertical, horizontal = (make(*axis, pixels.device, dtype) for axis in lengths)
    rows = (pixels.to(dtype) @ horizontal.T).add_(0.5).floor_()
    if not exporting and 1 < short <= side:
        return _enlarge_vertically(rows, *_taps(*lengths[0], pixels.device, dtype)).add_(0.5).floor_().float()
    return (vertical @ rows).add_(0.5).floor_().float()


def _enlarge_vertically(rows: Tensor, first: Tensor, weight: Tensor, next_weight: Tensor) -> Tensor:
    """``vertical @ rows`` if each row mixes at most two, in a third of the time of the matrix product."""
    return rows.index_select(-2, first).mul_(weight).addcmul_(rows.index_select(-2, first + 1), next_weight)


def _is_exact_in_float32(old: int, new: int) -> bool:
    """Whether float32 gives the same rounding as float64.

    When an axis is enlarged by the factor k, each pixel value is an integer divided by 2k. For odd k it is never
    half-way between two integers; for a power of two it is exact in float32. For other factors there can be ties, and
    PIL's rounded weights decide in which direction they are rounded.
    """
    factor, remainder = divmod(new, old)
    return remainder == 0 and (factor % 2 == 1 or factor & (factor - 1) == 0)


def weights(old: int, new: int, side: int) -> Tensor:
    """PIL's bilinear weights for the central ``side`` of ``new`` pixels from ``old`` pixels, float64 ``(side, old)``.

    The filter is a triangle. Its half-width is one pixel of the coarser of the two pixel grids.
    """
    # Sizes are converted to tensors: a quotient of sizes would become float32 in an exported graph.
    scale = torch.full((1,), old, dtype=torch.float64) / torch.full((1,), new, dtype=torch.float64)
    support = scale.clamp(min=1.0)
    centre = (torch.arange(side, dtype=torch.float64)[:, None] + (new - side) // 2 + 0.5) * scale
    pixel = torch.arange(old)[None, :]
    first = (centre - support + 0.5).int().clamp(min=0)
    last = (centre + support + 0.5).int().clamp(max=old)
    triangle: Tensor = (1 - ((pixel - centre + 0.5) / support).abs()).clamp(min=0)
    triangle = triangle * ((pixel >= first) & (pixel < last))
    normalized = triangle / triangle.sum(dim=1, keepdim=True)
    return (normalized * _PRECISION + 0.5).floor() / _PRECISION


def _weights_on(old: int, new: int, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return weights(old, new, side).to(device, dtype)


# Users' images come in any size: only the weights for the most recent ones are kept.
_cached_weights = lru_cache(64)(_weights_on)


@lru_cache(64)
def _taps(old: int, new: int, side: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """``weights`` of an enlargement in sparse form: for each output pixel the two input pixels that it mixes.

    Returns:
        The index of the first one, ``(side,)``, its weight and that of the next pixel, both ``(side, 1)``.
    """
    dense = weights(old, new, side)
    first = (dense > 0).int().argmax(dim=1).clamp(max=old - 2)[:, None]
    pair = (dense.gather(1, index).to(device, dtype) for index in (first, first + 1))
    return first.flatten().to(device), *pair
