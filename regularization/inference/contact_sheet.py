"""Contact sheets: a grid of small images with captions, as one figure."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

MAX_COLUMNS = 6
INCHES = 1.7  # side of an image
PIXELATED = 64  # pixels: narrower images are shown without interpolation


def contact_sheet(images: Sequence[Tensor], captions: Sequence[str], title: str = "") -> Figure:
    """The ``images``, uint8 ``(3, H, W)`` each, with their captions of one to three lines below them.

    A row has six images, or five or four if that leaves fewer empty cells in the last row.
    """
    count = len(images)
    candidates = range(MAX_COLUMNS, MAX_COLUMNS - 3, -1)
    columns = min(candidates, key=lambda width: -count % width) if count > MAX_COLUMNS else count
    rows = math.ceil(count / columns)
    width = max(columns * INCHES, len(title) * 0.09)  # a title can be wider than a short row
    below = 0.35 + 0.13 * max(0, max((caption.count("\n") for caption in captions), default=0) - 1)
    figure = Figure(figsize=(width, rows * (INCHES + below) + (0.4 if title else 0)), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.set(xticks=[], yticks=[], frame_on=False)
    for cell, image, caption in zip(cells, images, captions, strict=False):
        interpolation = "nearest" if image.shape[-1] < PIXELATED else "antialiased"
        cell.imshow(image.permute(1, 2, 0).numpy(), interpolation=interpolation)
        # A dollar sign would begin a formula.
        cell.set_xlabel(caption.replace("$", r"\$"), fontsize=8)
    return figure
