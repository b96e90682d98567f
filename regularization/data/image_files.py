"""Picture files of any kind: found in folders, decoded to RGB, brought to one size; or refused with a reason."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.progress import track
from torch import Tensor

from regularization.data.readers import Sample
from regularization.errors import UserError

# Pixels by themselves: Pillow would also run Ghostscript for EPS, and take a page of a PDF for a picture.
FORMATS = {"AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
_LARGE = Lock()
# Pillow refuses pictures of more than twice MAX_IMAGE_PIXELS, and warns of those above it, which we take.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class DecodeError:
    """A file that is no picture, and why; ``str`` gives both."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.reason}"


def printable(name: Path | str) -> str:
    """A file's name for people and for other files, also where it is no valid text."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find(place: Path) -> list[Path]:
    """The picture files in a folder and the folders inside it, by their suffix and in the order of their names."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS}
    inside = (path for path in place.rglob("*") if path.suffix.lower() in suffixes)
    return sorted(path for path in inside if path.is_file() and not _hidden(path.relative_to(place)))


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read(path: Path, side: int) -> Tensor | DecodeError:
    """The picture at ``path``: the centre of it, its short side resized to ``side`` pixels.

    As ``preprocess.square`` does it, but in the decoder's memory: a photo is never a tensor of its full size. Turned as
    its EXIF says; an animation's first frame; 16 bits a channel to 8; what is transparent on white.

    Returns:
        uint8 ``(3, side, side)``, or why the file can't be read.
    """
    try:
        with Image.open(path, formats=_formats()) as image, _one_at_a_time(image):
            pixels = np.asarray(_on_white(_square(_upright(image), side)))
    except UnidentifiedImageError:
        return DecodeError(path, "not a picture, whatever its name says")
    except Image.DecompressionBombError:
        return DecodeError(path, f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels")
    except MemoryError:
        return DecodeError(path, "too large for the memory")
    except Exception as error:  # Pillow's decoders raise whatever they like: a picture that is damaged is no bug
        return DecodeError(
            path, " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
        )
    return torch.from_numpy(pixels.copy()).movedim(-1, 0)


def read_all(paths: Sequence[Path], side: int, what: str) -> Iterator[Tensor | DecodeError]:
    """``read`` of every path, in their order, by as many threads as PyTorch has; on a terminal with a bar ``what``."""
    threads = torch.get_num_threads()  # a sweep shares the cores out by them
    # Decoding and resizing leave Python's lock to others. Submitted in parts: results wait in memory.
    with ThreadPoolExecutor(threads) as pool:
        parts = (paths[start : start + 16 * threads] for start in range(0, len(paths), 16 * threads))
        pictures = (picture for part in parts for picture in pool.map(read, part, [side] * len(part)))
        yield from track(pictures, what, total=len(paths), transient=True, disable=not sys.stdout.isatty())


@cache
def _formats() -> list[str]:
    """Those of FORMATS that this Pillow can open."""
    Image.init()
    return sorted(FORMATS & Image.OPEN.keys())


def _one_at_a_time(image: Image.Image) -> AbstractContextManager[Any]:
    """Holds up other threads while a picture is decoded of which a single one fills gigabytes."""
    return _LARGE if image.width * image.height > 2e7 else nullcontext()


def _upright(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where parts of it are transparent, turned as its EXIF says."""
    if image.mode in ("F", "I"):
        raise ValueError("its grey values have 32 bits, and nothing says which of them is white")
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    image = ImageOps.exif_transpose(image)
    clear = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    return image.convert("RGBA" if clear else "RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits in 8."""
    values = np.asarray(image)
    made = Image.fromarray((values >> 8).astype(np.uint8))
    made.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return made


def _square(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    size = (side * width // short, side * height // short)
    if size[0] * size[1] > (most := Image.MAX_IMAGE_PIXELS or 0):
        raise ValueError(f"too long for its width: resized it would have more than {most / 1e6:.0f} million pixels")
    left, top = ((length - side) // 2 for length in size)
    resized = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class ImageFiles:
    """A labelled set of picture files, to be used as ``Images`` are.

    Attributes:
        paths: The N files.
        side: Height and width they are brought to, in pixels.
        labels: int64 ``(N,)``.
        classes: Name of each class.
        workers: Processes that decode them.
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
            UserError: When one can't be read any more.
        """
        read = [read(self.paths[place], self.side) for place in index.tolist()]
        for picture in read:
            if isinstance(picture, DecodeError):
                raise UserError(f"a picture can't be read any more: {picture}")
        return torch.stack([picture for picture in read if isinstance(picture, Tensor)]), self.labels[index], index
