"""Contact sheets: many small pictures on one, each with its caption."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = 6
INCHES = 1.7  # of a picture


def contact_sheet(pictures: Sequence[Tensor], captions: Sequence[str], title: str = "") -> Figure:
    """The ``pictures``, uint8 ``(3, H, W)`` each, the captions (of one or two lines) below them.

    Rows have six, or five or four where that leaves fewer places empty in the last one.
    """
    count = len(pictures)
    columns = min(range(COLUMNS, COLUMNS - 3, -1), key=lambda width: -count % width) if count > COLUMNS else count
    rows = math.ceil(count / columns)
    width = max(columns * INCHES, len(title) * 0.09)  # few pictures may be narrower than the title
    figure = Figure(figsize=(width, rows * (INCHES + 0.35) + (0.4 if title else 0)), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11)
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.set(xticks=[], yticks=[], frame_on=False)
    for cell, picture, caption in zip(cells, pictures, captions, strict=False):
        # Small pictures show their pixels; large ones are smoothed.
        shown = "nearest" if picture.shape[-1] < 64 else "antialiased"
        cell.imshow(picture.permute(1, 2, 0).numpy(), interpolation=shown)
        # A $ would begin a formula.
        cell.set_xlabel(caption.replace("$", r"\$"), fontsize=8)
    return figure
