"""Arms compared image by image: which validation images an arm fixes and which it breaks."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from regularization.data.image_data import ImageData
from regularization.errors import UserError
from regularization.runs import directory
from regularization.study.analysis import statistics
from regularization.study.analysis.comparison import Comparison
from regularization.study.results import Result

MAX_IMAGES = 24  # per contact sheet
THUMBNAIL_SIZE = 72  # pixels


@dataclass(frozen=True)
class PairedImages:
    """Two arms compared on the same images.

    Attributes:
        gain: Difference in accuracy, first minus second, with its interval over seeds and images.
        fixed: Number of predictions, over all seeds, that are correct in the first arm and wrong in the second.
        broken: Number of predictions that are wrong in the first arm and correct in the second.
        gains_by_image: For each image with any difference, by its index: the mean over seeds of +1 (fixed), 0 or −1.
        predicted: For each of them with a gain other than 0, the most frequent wrong prediction of the arm that is
            wrong more often, in the seeds in which the other arm is correct.
    """

    gain: Comparison
    fixed: int
    broken: int
    gains_by_image: dict[int, float]
    predicted: dict[int, int]


@dataclass(frozen=True)
class Thumbnail:
    """An image of a contact sheet.

    Attributes:
        source: A PNG as a data URI.
        caption: The image's class, what was predicted, and in which share of the seeds.
    """

    source: str
    caption: str


@dataclass(frozen=True)
class _SeedPair:
    """For one seed, whether each arm classifies each image correctly, the images' indices, and wrong predictions.

    ``(N,)`` each; ``wrong`` is the prediction of the arm that is wrong where the other one is correct.
    """

    first: NDArray[np.bool_]
    second: NDArray[np.bool_]
    index: NDArray[np.int64]
    wrong: NDArray[np.int64]


def compare_images(first: Sequence[Result], second: Sequence[Result]) -> PairedImages | None:
    """Compares two arms on the validation images that they share in runs with the same seed.

    Returns:
        The comparison; None if no seed has the logits of both arms for the same images.
    """
    second_by_seed = {result.seed: result for result in second}
    common = [(result, second_by_seed[result.seed]) for result in first if result.seed in second_by_seed]
    pairs = [pair for results in common if (pair := _pair(*results)) is not None]
    if not pairs:
        return None
    images, table = _gain_table(pairs)
    gain = statistics.bootstrap(table)
    fixed = sum(int((pair.first & ~pair.second).sum()) for pair in pairs)
    broken = sum(int((pair.second & ~pair.first).sum()) for pair in pairs)
    gains = _gains_by_image(images, table)
    return PairedImages(gain, fixed, broken, gains, _predicted(pairs, gains))


def _pair(first: Result, second: Result) -> _SeedPair | None:
    first_logits, second_logits = first.logits(), second.logits()
    if first_logits is None or second_logits is None or not np.array_equal(first_logits[2], second_logits[2]):
        return None
    (first_class, second_class), labels = (
        (it[0].argmax(axis=1) for it in (first_logits, second_logits)),
        first_logits[1],
    )
    first_correct, second_correct = first_class == labels, second_class == labels
    wrong = np.where(first_correct, second_class, first_class)
    return _SeedPair(first_correct, second_correct, first_logits[2], wrong)


def _gain_table(pairs: list[_SeedPair]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The indices of all images ``(images,)``, and +1 (fixed), −1 (broken) or 0, ``(seeds, images)``.

    NaN where the image was not validated with this seed.
    """
    images = np.unique(np.concatenate([pair.index for pair in pairs]))
    table = np.full((len(pairs), len(images)), np.nan, dtype=np.float32)
    for row, pair in zip(table, pairs, strict=True):
        row[np.searchsorted(images, pair.index)] = pair.first.astype(np.int8) - pair.second
    return images, table


def _gains_by_image(images: NDArray[np.int64], table: NDArray[np.float32]) -> dict[int, float]:
    differs = np.abs(np.nan_to_num(table)).any(axis=0)
    means: NDArray[np.float64] = np.nanmean(table[:, differs], axis=0, dtype=np.float64)
    return dict(zip(images[differs].tolist(), means.tolist(), strict=True))


def _predicted(pairs: list[_SeedPair], gains: dict[int, float]) -> dict[int, int]:
    """By image, the most frequent prediction of the arm that is wrong more often, where the other one is correct."""
    predictions: dict[int, list[int]] = {}
    for pair in pairs:
        differs = pair.first != pair.second
        columns = (pair.index[differs].tolist(), pair.wrong[differs].tolist(), pair.first[differs].tolist())
        for index, wrong, is_fixed in zip(*columns, strict=True):
            if gains[index] and is_fixed == (gains[index] > 0):
                predictions.setdefault(index, []).append(wrong)
    return {index: Counter(classes).most_common(1)[0][0] for index, classes in predictions.items()}


def load_data(result: Result) -> ImageData | None:
    """Loads the data that a run was trained on, as its config describes it; None if they are no longer available."""
    from regularization.study.dry_run import DryRun

    try:
        trial = DryRun(["--config", str(result.folder / directory.CONFIG)])
        trial.datamodule.setup("fit")
    except (UserError, OSError):
        return None
    data: ImageData = trial.datamodule
    return data


def contact_sheets(paired: PairedImages, data: ImageData) -> tuple[list[Thumbnail], list[Thumbnail]]:
    """The images that were fixed in the most seeds, and those that were broken in the most."""
    gains = paired.gains_by_image
    ranked = sorted(gains, key=lambda index: (-gains[index], index))
    fixed = [_thumbnail(data, paired, index) for index in ranked[:MAX_IMAGES] if gains[index] > 0]
    broken = [_thumbnail(data, paired, index) for index in ranked[::-1][:MAX_IMAGES] if gains[index] < 0]
    return fixed, broken


def _thumbnail(data: ImageData, paired: PairedImages, index: int) -> Thumbnail:
    assert data.val_set is not None
    images, _ = data.val_set
    pixels = images[torch.tensor([index])][0][0].permute(1, 2, 0).numpy()
    file = io.BytesIO()
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    share = abs(paired.gains_by_image[index])
    caption = f"{images.classes[int(images.labels[index])]}, predicted {images.classes[paired.predicted[index]]}"
    caption += "" if share == 1 else f"; {share:.0%} of the seeds"
    return Thumbnail(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", caption)
