"""Evaluation on the test set: scores per class, confidence, errors, and the files that show them in the run folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from regularization.callbacks.curves import save
from regularization.callbacks.val_logits import gather_logits, write_logits
from regularization.data.image_data import ImageData
from regularization.data.image_files import ImageFiles
from regularization.data.readers import Images
from regularization.errors import UserError, printable
from regularization.inference.calibration import ReliabilityBins, reliability_bins
from regularization.inference.contact_sheet import contact_sheet
from regularization.inference.page import ClassScore, PageSection, write_page
from regularization.inference.plots import MAX_NAME_LENGTH, draw_confusion, draw_reliability, shorten
from regularization.models.metrics import calibration_error
from regularization.runs import directory

CLASSES = "classes.csv"
CONFUSION = "confusion.png"
RELIABILITY = "reliability.png"
WRONG = "wrong.png"
LOGITS = "logits.npz"

MAX_ERRORS_SHOWN = 25
ALPHA = 0.05


class PredictionCollector(Callback):
    """Collects the logits of the test images while Lightning's test loop computes the metrics."""

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._gathered: tuple[Tensor, Tensor] | None = None

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Keeps the logits of a batch. They stay on the device, so that no batch waits for a copy."""
        self._batches.append((outputs, batch.indices[: batch.counted]))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gathers the logits of all processes."""
        if self._batches:
            self._gathered = gather_logits(self._batches, trainer)

    def of(self, data: ImageData) -> "Evaluation":
        """The evaluation on the test set of ``data``, after the test loop has run on it."""
        assert data.test_set is not None
        assert self._gathered is not None
        logits, index = self._gathered
        return Evaluation(data.test_set[0], index, logits)


@dataclass(frozen=True)
class Evaluation:
    """A network's predictions for N images of C classes.

    Attributes:
        images: The data set that the images belong to.
        index: Their positions in the data set, int64 ``(N,)``.
        logits: The network's output, ``(N, C)``.
    """

    images: Images | ImageFiles
    index: Tensor
    logits: Tensor

    @cached_property
    def labels(self) -> Tensor:
        """The true classes, int64 ``(N,)``."""
        return self.images.labels[self.index]

    @cached_property
    def predictions(self) -> Tensor:
        """The most likely classes, int64 ``(N,)``; in a tie the first one, as in the accuracy that is logged."""
        return self.logits.argmax(dim=1)

    @cached_property
    def confidence(self) -> Tensor:
        """Probabilities of the predictions, float64 ``(N,)``. In float32, too many would be exactly 1 and tie."""
        return self.logits.double().softmax(dim=1).amax(dim=1)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Number of images of the row's class that were predicted as the column's class, ``(C, C)``."""
        count = self.logits.shape[1]
        pairs = torch.bincount(self.labels * count + self.predictions, minlength=count**2)
        return pairs.reshape(count, count).numpy()

    @property
    def correct(self) -> int:
        """Number of correct predictions."""
        return int(self.confusion.trace())

    @property
    def accuracy(self) -> float:
        """Fraction of correct predictions."""
        return self.correct / len(self.labels)

    def accuracy_interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy over images; see ``bootstrap_interval``."""
        return bootstrap_interval(self.correct, len(self.labels))

    def class_scores(self) -> list[ClassScore]:
        """The score of each class, in the order of the classes."""
        errors = self.confusion - np.diag(self.confusion.diagonal())
        return [
            ClassScore(
                name,
                images=int(self.confusion[index].sum()),
                correct=int(self.confusion[index, index]),
                confused_with=self.images.classes[int(row.argmax())] if row.any() else "",
                confusions=int(row.max()),
            )
            for index, (name, row) in enumerate(zip(self.images.classes, errors, strict=True))
        ]

    def reliability_bins(self) -> ReliabilityBins:
        """Mean confidence and accuracy per bin of confidence."""
        return reliability_bins(self.confidence.numpy(), (self.predictions == self.labels).numpy())

    def most_confident_errors(self, limit: int = MAX_ERRORS_SHOWN) -> list[int]:
        """Positions, 0 to N−1, of the wrong predictions with the highest confidence, the highest first."""
        wrong = (self.predictions != self.labels).nonzero().flatten()
        order = self.confidence[wrong].argsort(descending=True, stable=True)
        return [int(position) for position in wrong[order[:limit]]]

    def image(self, position: int) -> Tensor:
        """One of the N images as it is in the data set, uint8 ``(3, H, W)``."""
        return self.images[self.index[[position]]][0][0]

    def caption(self, position: int) -> str:
        """Three lines: the true class, the predicted class, and the probability of the predicted class."""
        true, predicted = (self.images.classes[int(classes[position])] for classes in (self.labels, self.predictions))
        return f"{shorten(true)}\nread as {shorten(predicted, MAX_NAME_LENGTH - 8)}\n{self.confidence[position]:.0%}"

    def page_section(self, part: str, folder: Path) -> PageSection:
        """The section for the page of the run, with the figures in ``folder``."""
        low, high = self.accuracy_interval()
        count = len(self.labels)
        headline = f"{self.accuracy:.2%} of {count:,} {part} images correct, 95% interval {low:.2%} to {high:.2%}"
        figures = {
            "Confusion of classes": folder / CONFUSION,
            "Reliability: accuracy against confidence": folder / RELIABILITY,
            "Most confident errors": folder / WRONG,
        }
        return PageSection(headline, self.class_scores(), figures)

    def summary(self) -> str:
        """Two lines: the accuracy with its interval, and the classes with the lowest and the highest accuracy."""
        low, high = self.accuracy_interval()
        count = len(self.labels)
        first = f"accuracy {self.accuracy:.2%}, 95% interval {low:.2%} to {high:.2%} over {count:,} test images"
        scores = [score for score in self.class_scores() if score.images]
        worst, best = (choose(scores, key=lambda score: score.accuracy) for choose in (min, max))
        if worst.accuracy == best.accuracy:
            return f"{first}\nall classes: {best.accuracy:.2%}"
        second = f"worst class {worst.name}: {worst.accuracy:.2%} of {worst.images:,} images"
        return f"{first}\n{second}, best class {best.name}: {best.accuracy:.2%} of {best.images:,}"


def bootstrap_interval(correct: int, images: int, alpha: float = ALPHA) -> tuple[float, float]:
    """Percentile bootstrap interval of the accuracy over images, at level 1 − ``alpha``.

    Resampling N predictions with replacement, of which the fraction p is correct, gives a Binomial(N, p) number of
    correct ones. So the interval that infinitely many resamples would give consists of the quantiles of
    Binomial(N, p) / N, and no resampling is needed.

    The interval says how far the accuracy of this network may be from its accuracy on all images of this kind. It says
    nothing about networks trained with other seeds. If all predictions are correct, or none, all resamples are equal
    and the interval has no width, although the true error rate may be as high as about 3/N.
    """
    low, high = stats.binom.ppf([alpha / 2, 1 - alpha / 2], images, correct / images) / images
    return float(low), float(high)


def save_evaluation(evaluation: Evaluation, scores: dict[str, float], checkpoint: Path, run_dir: Path | None) -> None:
    """Prints the summary; saves scores, table and plots in the run folder, if there is one.

    Args:
        evaluation: The predictions for the test images.
        scores: The metrics that were logged.
        checkpoint: The checkpoint that was evaluated.
        run_dir: The run folder that the checkpoint belongs to, or None.
    """
    print(evaluation.summary())
    if run_dir is None:
        print(f"{printable(checkpoint)} is not in a run folder: no table and no plots were written", flush=True)
        return
    write_files(evaluation, scores["test_calibration_error"], run_dir / directory.TEST)
    low, high = evaluation.accuracy_interval()
    result = {
        "checkpoint": checkpoint.name,
        **scores,
        "images": len(evaluation.labels),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
    }
    # Written after the plots, so that a run with test scores has the plots as well.
    directory.add_result(run_dir, {"test": result})
    page = write_page(run_dir, evaluation.page_section("test", run_dir / directory.TEST))
    print(f"table and plots: {printable(run_dir / directory.TEST)}; on one page: {printable(page)}", flush=True)


def save_validation(data: ImageData, run_dir: Path) -> Path:
    """Writes tables and plots of the newest validation, and the page of the run; without validation the page alone.

    Returns:
        The path of the page.
    """
    section = None
    if data.val_set is not None and (run_dir / directory.LOGITS).is_file():
        with np.load(run_dir / directory.LOGITS) as arrays:
            logits, index = (torch.from_numpy(arrays[name]) for name in ("logits", "index"))
        evaluation = Evaluation(data.val_set[0], index, logits.float())
        error = calibration_error(evaluation.confidence, evaluation.predictions == evaluation.labels)
        write_files(evaluation, float(error), run_dir / directory.VALIDATION, "validation")
        section = evaluation.page_section("validation", run_dir / directory.VALIDATION)
    return write_page(run_dir, section)


def write_files(evaluation: Evaluation, calibration_error: float, folder: Path, part: str = "test") -> None:
    """Writes table, logits and plots into ``folder``; replaces each file of an earlier evaluation atomically.

    Raises:
        UserError: If they can't be written.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"can't create {folder}: {error.strerror}") from error
    _write_table(evaluation, folder / CLASSES)
    write_logits(folder / LOGITS, evaluation.logits, evaluation.labels, evaluation.index)
    save(draw_confusion(evaluation.confusion, evaluation.images.classes, part), folder / CONFUSION)
    save(draw_reliability(evaluation.reliability_bins(), calibration_error), folder / RELIABILITY)
    if positions := evaluation.most_confident_errors():
        images = [evaluation.image(position) for position in positions]
        captions = [evaluation.caption(position) for position in positions]
        save(contact_sheet(images, captions, _title(evaluation, len(positions))), folder / WRONG)
    else:
        # An earlier evaluation may have left this file.
        (folder / WRONG).unlink(missing_ok=True)


def _title(evaluation: Evaluation, shown: int) -> str:
    errors = len(evaluation.labels) - evaluation.correct
    which = f"the {shown} most confident of {errors:,} errors" if errors > shown else "all errors"
    return f"{which}: the true class, and what it was read as"


def _write_table(evaluation: Evaluation, path: Path) -> None:
    rows = [
        (
            score.name,
            score.images,
            score.correct,
            f"{score.accuracy:.6f}" if score.images else "",
            score.confused_with,
            score.confusions or "",
        )
        for score in evaluation.class_scores()
    ]
    directory.write_csv(path, ["class", "images", "right", "accuracy", "taken_for", "times"], rows)
