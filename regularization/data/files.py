"""Images that stay in their files: what does not fit into memory is decoded for each batch, by worker processes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from regularization.data import image_files
from regularization.data.image_files import DecodeError
from regularization.data.readers import Sample
from regularization.errors import UserError


@dataclass(frozen=True)
class Files:
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
        read = [image_files.read(self.paths[place], self.side) for place in index.tolist()]
        for picture in read:
            if isinstance(picture, DecodeError):
                raise UserError(f"a picture can't be read any more: {picture}")
        return torch.stack([picture for picture in read if isinstance(picture, Tensor)]), self.labels[index], index
