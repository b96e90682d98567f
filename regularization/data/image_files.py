"""Image files of any format: decoded to RGB and resized, or rejected with a reason."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from rich.progress import track
from torch import Tensor

from regularization.data.color import on_white, to_upright_rgb
from regularization.data.image_search import formats, unreadable
from regularization.data.readers import Sample
from regularization.errors import UserError, printable

# Held while a large image is decoded, because one such image alone can need gigabytes of memory.
_LARGE_IMAGE_LOCK = Lock()
_LARGE_IMAGE_PIXELS = 2e7
# Pillow rejects images of more than twice MAX_IMAGE_PIXELS and warns above MAX_IMAGE_PIXELS. The warning is disabled.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class DecodeError:
    """A file that cannot be decoded as an image, and the reason; ``str`` gives both."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


def read(path: Path, side: int) -> Tensor | DecodeError:
    """Reads an image: its short side is resized to ``side`` pixels, and the central square is cropped.

    The result is that of ``preprocess.square``, but the full-size image is never a tensor. The image is rotated
    according to its EXIF data. The first frame of an animation is used. Colours are converted to sRGB with 8 bits per
    channel, and transparent pixels are placed on white.

    Returns:
        uint8 ``(3, side, side)``, or why the file cannot be read.
    """
    try:
        with Image.open(path, formats=formats()) as image, _limit_memory(image):
            pixels = np.asarray(on_white(square(to_upright_rgb(image), side)))
    except UnidentifiedImageError:
        return DecodeError(path, unreadable(path.suffix.lower()) or "not an image, or of an unsupported format")
    except Image.DecompressionBombError:
        return DecodeError(path, f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels")
    except MemoryError:
        return DecodeError(path, "not enough memory to decode it")
    except Exception as error:  # Pillow's decoders raise exceptions of any type for a damaged file
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)
        return DecodeError(path, " ".join(reason.split()))
    return torch.from_numpy(pixels.copy()).movedim(-1, 0)


def read_all(paths: Sequence[Path], side: int, description: str) -> Iterator[Tensor | DecodeError]:
    """Calls ``read`` for each path, in order, in as many threads as PyTorch uses.

    On a terminal it shows a progress bar with the ``description``.
    """
    threads = torch.get_num_threads()  # a sweep divides the CPU cores among its trials by this number
    # Decoding and resizing release the GIL. Paths are submitted in chunks, because pending results occupy memory.
    with ThreadPoolExecutor(threads) as pool:
        parts = (paths[start : start + 16 * threads] for start in range(0, len(paths), 16 * threads))
        images = (image for part in parts for image in pool.map(read, part, [side] * len(part)))
        yield from track(images, description, total=len(paths), transient=True, disable=not sys.stdout.isatty())


def _limit_memory(image: Image.Image) -> AbstractContextManager[Any]:
    """Lets only one thread at a time decode a large image; the others wait."""
    return _LARGE_IMAGE_LOCK if image.width * image.height > _LARGE_IMAGE_PIXELS else nullcontext()


def square(image: Image.Image, side: int) -> Image.Image:
    """Resizes the short side of an image to ``side`` pixels and crops the central square.

    Raises:
        ValueError: When the image is so elongated that the resized image would exceed Pillow's pixel limit.
    """
    width, height = image.size
    short = min(width, height)
    size = (side * width // short, side * height // short)
    if size[0] * size[1] > (limit := Image.MAX_IMAGE_PIXELS or 0):
        raise ValueError(f"too long for its width: resized it would have more than {limit / 1e6:.0f} million pixels")
    left, top = ((length - side) // 2 for length in size)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class ImageFiles:
    """A labelled set of image files with the interface of ``Images``: files are read when they are indexed.

    Attributes:
        paths: The N files.
        side: Height and width of the images after ``read``, in pixels.
        labels: int64 ``(N,)``.
        classes: Name of each class.
        workers: Number of processes that read batches.
    """

    paths: Sequence[Path]
    side: int
    labels: Tensor
    classes: tuple[str, ...]
    workers: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.side, self.side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor) -> Sample:
        """Reads the files at ``index``: pixels uint8 ``(B, 3, side, side)``, labels ``(B,)``, and ``index``.

        Raises:
            UserError: When a file can no longer be read.
        """
        images = []
        for position in index.tolist():
            image = read(self.paths[position], self.side)
            if isinstance(image, DecodeError):
                raise UserError(f"an image can no longer be read: {image}")
            images.append(image)
        return torch.stack(images), self.labels[index], index
