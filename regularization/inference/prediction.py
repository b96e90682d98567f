"""Prediction: classifies image files; writes the result as a table and a contact sheet."""

import os
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from regularization.callbacks.curves import save
from regularization.data import image_files
from regularization.data.image_files import DecodeError
from regularization.data.image_search import LeftOut, SearchResult, search, summarize
from regularization.errors import UserError, printable
from regularization.inference.contact_sheet import contact_sheet
from regularization.inference.plots import shorten
from regularization.inference.trained_model import TrainedModel
from regularization.runs import directory

TABLE = "predictions.csv"
SHEET = "predictions.png"
SKIPPED = "skipped.csv"

TOP_K = 5
BATCH_SIZE = 64
SHEET_IMAGES = 24
MAX_PRINTED = 10
MAX_FILE_NAME = 22  # characters


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of an image.

    Attributes:
        path: The image file.
        classes: Names of the ``TOP_K`` most likely classes, or of all if there are fewer; the most likely first.
        probabilities: Their probabilities.
    """

    path: Path
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.classes[0]} {self.probabilities[0]:.0%}"

    @property
    def caption(self) -> str:
        """Two lines: the name of the file, and the class with its probability."""
        return f"{shorten(printable(self.path.name), MAX_FILE_NAME)}\n{self}"


def predict_files(model: TrainedModel, sources: Sequence[Path], output: Path) -> None:
    """Writes the classes of each image to ``predictions.csv`` and shows the first images on ``predictions.png``.

    Files that are not images are skipped: ``skipped.csv`` lists them with the reason.

    Args:
        model: The network.
        sources: Image files, or folders that are searched for them.
        output: The folder to write to.

    Raises:
        UserError: If there are no images, or they can't be read, or ``output`` can't be created.
    """
    paths, left_out = _find_images(sources, exclude={output / name for name in (TABLE, SHEET, SKIPPED)})
    if left_out:
        print(summarize(left_out), file=sys.stderr)
    output = directory.created_folder(output)
    predictions: list[Prediction] = []
    images: list[Tensor] = []
    errors: list[DecodeError] = []
    for result in classify(model, paths):
        if isinstance(result, DecodeError):
            print(f"skipped: {result}", file=sys.stderr)
            errors.append(result)
            continue
        prediction, image = result
        predictions.append(prediction)
        if len(images) < SHEET_IMAGES:
            images.append(image)
    if not predictions:
        raise UserError(f"none of the {len(paths)} files is an image that can be read")
    errors += [DecodeError(item.path, item.reason) for item in left_out]
    _write_files(predictions, images, errors, output)


def classify(model: TrainedModel, paths: Sequence[Path]) -> Iterator[tuple[Prediction, Tensor] | DecodeError]:
    """Classifies image files in batches.

    Yields:
        In the order of ``paths``, the prediction and the image, uint8 ``(3, side, side)``; or the error, for a file
        that can't be read.
    """
    decoded = zip(paths, image_files.read_all(paths, model.side, "reading images"), strict=True)
    while batch := list(islice(decoded, BATCH_SIZE)):
        images = [image for _, image in batch if isinstance(image, Tensor)]
        probabilities = iter(_probabilities(model, images))
        for path, image in batch:
            if isinstance(image, DecodeError):
                yield image
            else:
                yield _most_likely(path, next(probabilities), model.classes), image


def _find_images(sources: Sequence[Path], exclude: Set[Path]) -> tuple[list[Path], list[LeftOut]]:
    """Finds image files, each once, and files left out; ignores ``exclude``, the outputs of an earlier prediction."""
    paths: dict[str, Path] = {}
    left_out: dict[str, LeftOut] = {}
    excluded = set(map(os.path.realpath, exclude))
    for source in map(Path.expanduser, sources):
        if not source.exists():
            raise UserError(f"--images: there is no {printable(source)}")
        result = search(source) if source.is_dir() else SearchResult([source])
        # A file that is given by two spellings of its path, or also by a link, counts as one image.
        found = {os.path.realpath(path): path for path in result.paths}
        others = {os.path.realpath(item.path.parent) + os.sep + item.path.name: item for item in result.left_out}
        others = {real: item for real, item in others.items() if real not in excluded}
        if not found.keys() - excluded:
            but = f"; {summarize(others.values())}" if others else ""
            raise UserError(f"--images: there are no images in {printable(source)}{but}")
        paths |= {real: path for real, path in found.items() if real not in excluded | paths.keys()}
        left_out |= {real: item for real, item in others.items() if real not in left_out}
    return list(paths.values()), list(left_out.values())


def _probabilities(model: TrainedModel, images: list[Tensor]) -> list[Tensor]:
    if not images:
        return []
    with torch.inference_mode():
        return list(model(torch.stack(images).to(next(model.parameters()).device)).cpu())


def _most_likely(path: Path, probabilities: Tensor, classes: Sequence[str]) -> Prediction:
    top = probabilities.topk(min(TOP_K, len(classes)))
    return Prediction(path, tuple(classes[index] for index in top.indices.tolist()), tuple(top.values.tolist()))


def _write_files(
    predictions: Sequence[Prediction], images: Sequence[Tensor], errors: Sequence[DecodeError], output: Path
) -> None:
    _write_table(predictions, output / TABLE)
    save(contact_sheet(images, [prediction.caption for prediction in predictions[: len(images)]]), output / SHEET)
    _print_table(predictions)
    print(f"{len(predictions)} images classified, {len(errors)} skipped\n{output / TABLE}\n{output / SHEET}")
    if errors:
        rows = [(printable(error.path), error.reason) for error in errors]
        directory.write_csv(output / SKIPPED, ["file", "reason"], rows)
        print(output / SKIPPED)
    else:
        # An earlier prediction may have left this file.
        (output / SKIPPED).unlink(missing_ok=True)


def _write_table(predictions: Sequence[Prediction], path: Path) -> None:
    ranks = range(2, len(predictions[0].classes) + 1)
    columns = [
        "file",
        "class",
        "probability",
        *(f"{name}_{rank}" for rank in ranks for name in ("class", "probability")),
    ]
    rows = []
    for prediction in predictions:
        pairs = zip(prediction.classes, (f"{value:.4f}" for value in prediction.probabilities), strict=True)
        rows.append([printable(prediction.path), *chain.from_iterable(pairs)])
    directory.write_csv(path, columns, rows)


def _print_table(predictions: Sequence[Prediction]) -> None:
    labels = [str(prediction) for prediction in predictions[:MAX_PRINTED]]
    width = max(map(len, labels))
    for label, prediction in zip(labels, predictions, strict=False):
        print(f"{label:<{width}}  {printable(prediction.path)}")
    if len(predictions) > MAX_PRINTED:
        print(f"… and {len(predictions) - MAX_PRINTED} more")
