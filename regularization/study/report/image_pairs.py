"""Arms compared image by image: which pictures λ fixed and which it broke."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regularization.data.datamodules import ImageData
from regularization.errors import UserError
from regularization.runs import directory
from regularization.study import statistics
from regularization.study.results import Result
from regularization.study.statistics import Comparison

SHOWN = 24
SIDE = 72  # pixels


@dataclass(frozen=True)
class Paired:
    """Two arms on the same images.

    Attributes:
        gain: Difference in accuracy with its interval over seeds and images.
        fixed: Answers that the second arm gets wrong and the first right, over all seeds.
        broken: The other way round.
        p: Of McNemar's test on these two numbers: it speaks for these trained networks, not for other seeds.
        images: For each image that differs: its index, and how much oftener the first arm is right, −1 to 1.
    """

    gain: Comparison
    fixed: int
    broken: int
    p: float
    images: dict[int, float]


@dataclass(frozen=True)
class Shown:
    """A picture of the contact sheet.

    Attributes:
        source: A PNG as a data URI.
        caption: Its class, and in how many of the seeds it turned.
    """

    source: str
    caption: str


def pair(first: Sequence[Result], second: Sequence[Result]) -> Paired | None:
    """Compares two arms on the images that both were validated on with the same seed; None where there are none."""
    rights: list[tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]] = []
    others = {result.seed: result for result in second}
    for one in first:
        if one.seed in others and (found := _both(one, others[one.seed])) is not None:
            rights.append(found)
    if not rights:
        return None
    gain = statistics.bootstrap([ours for ours, _, _ in rights], [theirs for _, theirs, _ in rights])
    fixed = sum(int((ours & ~theirs).sum()) for ours, theirs, _ in rights)
    broken = sum(int((theirs & ~ours).sum()) for ours, theirs, _ in rights)
    return Paired(gain, fixed, broken, statistics.mcnemar(fixed, broken), _by_image(rights))


def _both(one: Result, other: Result) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]] | None:
    ours, theirs = one.logits(), other.logits()
    if ours is None or theirs is None or not np.array_equal(ours[2], theirs[2]):
        return None
    return ours[0].argmax(axis=1) == ours[1], theirs[0].argmax(axis=1) == theirs[1], ours[2]


def _by_image(rights: list[tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]]) -> dict[int, float]:
    gains: dict[int, list[int]] = {}
    for ours, theirs, index in rights:
        for place, gain in zip(index.tolist(), (ours.astype(int) - theirs).tolist(), strict=True):
            gains.setdefault(place, []).append(gain)
    return {place: float(np.mean(values)) for place, values in gains.items() if any(values)}


def data_of(result: Result) -> ImageData | None:
    """The data that a run was trained on, read again from its config; None when it is not there any more."""
    from regularization.study.dry_run import DryRun

    try:
        planned = DryRun(["fit", "--config", str(result.folder / directory.CONFIG)])
        planned.datamodule.setup("fit")
    except (UserError, OSError):
        return None
    data: ImageData = planned.datamodule
    return data


def contact_sheets(paired: Paired, data: ImageData) -> tuple[list[Shown], list[Shown]]:
    """The pictures that were fixed most clearly, and those that were broken."""
    ranked = sorted(paired.images, key=lambda place: (-paired.images[place], place))
    fixed = [place for place in ranked if paired.images[place] > 0][:SHOWN]
    broken = [place for place in ranked[::-1] if paired.images[place] < 0][:SHOWN]
    return [_shown(data, place, paired) for place in fixed], [_shown(data, place, paired) for place in broken]


def _shown(data: ImageData, place: int, paired: Paired) -> Shown:
    assert data.val_set is not None
    images, _ = data.val_set
    pixels = images[torch.tensor([place])][0][0].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "PNG")
    label = int(images.labels[place])
    name = images.classes[label]
    share = abs(paired.images[place])
    how = "" if share == 1 else f", in {share:.0%} of its seeds"
    return Shown(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", f"{name}{how}")
