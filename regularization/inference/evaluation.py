"""Evaluation: how the test images were answered, in numbers, a table, and pictures in the run folder."""

import csv
import io
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
from regularization.data.datamodules import ImageData
from regularization.data.image_files import ImageFiles
from regularization.data.readers import Images
from regularization.errors import UserError
from regularization.inference.contact_sheet import contact_sheet
from regularization.inference.plots import LONGEST, Reliability, draw_confusion, draw_reliability, shortened
from regularization.runs import directory

CLASSES = "classes.csv"
CONFUSION = "confusion.png"
RELIABILITY = "reliability.png"
WRONG = "wrong.png"
LOGITS = "logits.npz"

SHOWN = 25  # of the wrong answers
BINS = 15  # as many as the calibration error has
ALPHA = 0.05


class PredictionCollector(Callback):
    """Keeps what the network says about the test images, in the same pass that scores them."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._answers: tuple[Tensor, Tensor] | None = None

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: int
    ) -> None:
        """Keeps the batch's logits, on the device: no batch waits for another."""
        self._parts.append((outputs, batch.indices[: batch.counted]))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts together what all processes have."""
        if self._parts:
            self._answers = gather_logits(self._parts, trainer)

    def of(self, data: ImageData) -> "Evaluation":
        """What was kept, with the images that it is about."""
        assert data.test_set is not None
        assert self._answers is not None
        logits, index = self._answers
        return Evaluation(data.test_set[0], index, logits)


@dataclass(frozen=True)
class ClassScore:
    """How the images of a class were answered.

    Attributes:
        name: The class.
        images: How many there are.
        right: How many of them were recognized.
        taken_for: The class that they were most often taken for by mistake, empty where there was no mistake.
        times: How often that was.
    """

    name: str
    images: int
    right: int
    taken_for: str
    times: int

    @property
    def accuracy(self) -> float:
        """Share that was recognized; there must be images."""
        return self.right / self.images


@dataclass(frozen=True)
class Evaluation:
    """A network's answers to N images of C classes.

    Attributes:
        images: The set that they are of.
        index: Which of it they are, int64 ``(N,)``.
        logits: What the network said, ``(N, C)``.
    """

    images: Images | ImageFiles
    index: Tensor
    logits: Tensor

    @cached_property
    def labels(self) -> Tensor:
        """The true classes, int64 ``(N,)``."""
        return self.images.labels[self.index]

    @cached_property
    def guesses(self) -> Tensor:
        """The most likely classes, int64 ``(N,)``; of equal ones the first, as in the accuracy that is logged."""
        return self.logits.argmax(dim=1)

    @cached_property
    def confidence(self) -> Tensor:
        """The probabilities of the guesses, float64 ``(N,)``: in float32 too many would be exactly 1 to be ranked."""
        return self.logits.double().softmax(dim=1).amax(dim=1)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """How often a class (row) was taken for a class (column), ``(C, C)``."""
        count = self.logits.shape[1]
        pairs = torch.bincount(self.labels * count + self.guesses, minlength=count**2)
        return pairs.reshape(count, count).numpy()

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return int(self.confusion.trace()) / len(self.labels)

    def interval(self) -> tuple[float, float]:
        """Of the accuracy over images; see ``interval``."""
        return interval(int(self.confusion.trace()), len(self.labels))

    def by_class(self) -> list[ClassScore]:
        """How each class was answered, in the order of the classes."""
        mistakes = self.confusion - np.diag(self.confusion.diagonal())
        return [
            ClassScore(
                name,
                images=int(self.confusion[place].sum()),
                right=int(self.confusion[place, place]),
                taken_for=self.images.classes[int(row.argmax())] if row.any() else "",
                times=int(row.max()),
            )
            for place, (name, row) in enumerate(zip(self.images.classes, mistakes, strict=True))
        ]

    def reliability(self) -> Reliability:
        """Confidence and accuracy in bins of confidence."""
        return reliability(self.confidence.numpy(), (self.guesses == self.labels).numpy())

    def most_wrong(self, most: int = SHOWN) -> list[int]:
        """Which of the N have the highest probability for a wrong guess, the highest first."""
        wrong = (self.guesses != self.labels).nonzero().flatten()
        order = self.confidence[wrong].argsort(descending=True, stable=True)
        return [int(place) for place in wrong[order[:most]]]

    def picture(self, place: int) -> Tensor:
        """One of the N as it is in the data set, uint8 ``(3, H, W)``."""
        return self.images[self.index[[place]]][0][0]

    def caption(self, place: int) -> str:
        """The true class, and below it the guess with its probability."""
        true, guess = (self.images.classes[int(which[place])] for which in (self.labels, self.guesses))
        return f"{shortened(true)}\n{shortened(guess, LONGEST - 5)} {self.confidence[place]:.0%}"

    def summary(self) -> str:
        """Two lines for people: the accuracy with its interval, the worst and the best class."""
        low, high = self.interval()
        count = len(self.labels)
        first = f"accuracy {self.accuracy:.2%}, 95% interval {low:.2%} to {high:.2%} over {count:,} test images"
        seen = [one for one in self.by_class() if one.images]
        worst, best = (choose(seen, key=lambda one: one.accuracy) for choose in (min, max))
        if worst.accuracy == best.accuracy:
            return f"{first}\nevery class: {best.accuracy:.2%}"
        second = f"worst class {worst.name}: {worst.accuracy:.2%} of {worst.images:,}"
        return f"{first}\n{second}, best class {best.name}: {best.accuracy:.2%} of {best.images:,}"


def interval(right: int, images: int, alpha: float = ALPHA) -> tuple[float, float]:
    """The accuracy's bootstrap interval over images, percentile method, at level 1 − ``alpha``.

    Of N answers drawn again with replacement, of which the share p is right, a Binomial(N, p) number is right,
    whatever else the images are. So the interval that infinitely many draws would give are the quantiles of
    Binomial(N, p) / N, and none is drawn.

    It says how far the accuracy of this one network may be from that on all images like these, and nothing of how
    networks of other seeds differ from it. Where every answer is right, or none, all draws are the same and it has no
    width, though mistakes may only be rarer than about 3 in N.
    """
    low, high = stats.binom.ppf([alpha / 2, 1 - alpha / 2], images, right / images) / images
    return float(low), float(high)


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Confidence and accuracy of answers in ``bins`` bins of confidence of the same width (arXiv:1706.04599).

    The calibration error that is logged sums their distances up, and has one more bin, for confidences of exactly 1.

    Args:
        confidence: Probability of each answer, ``(N,)``.
        right: Whether it is right, ``(N,)``.
        bins: How many; each has its lower end, the last one both.
    """
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    images = np.bincount(places, minlength=bins)
    some = np.where(images > 0, images, np.nan)
    return Reliability(
        images=images,
        confidence=np.bincount(places, weights=confidence, minlength=bins) / some,
        accuracy=np.bincount(places, weights=right, minlength=bins) / some,
    )


def save_evaluation(found: Evaluation, scores: dict[str, float], checkpoint: Path, run: Path | None) -> None:
    """Prints the summary, and keeps scores, table and pictures in the run folder, where there is one.

    Args:
        found: The answers.
        scores: The metrics that were logged.
        checkpoint: Whose answers they are.
        run: The run folder.
    """
    print(found.summary())
    if run is None:
        print(f"{checkpoint} lies in no run folder: no table and no pictures were written", flush=True)
        return
    write(found, scores["test_calibration_error"], run / directory.TEST)
    low, high = found.interval()
    about = {
        "checkpoint": checkpoint.name,
        **scores,
        "images": len(found.labels),
        "test_accuracy_low": low,
        "test_accuracy_high": high,
    }
    # Last: a run that has its score has the pictures too.
    directory.add_result(run, {"test": about})
    print(f"table and pictures: {run / directory.TEST}", flush=True)


def write(found: Evaluation, calibration_error: float, folder: Path) -> None:
    """Writes table, logits and pictures into ``folder``; each file that was there is replaced in one step.

    Raises:
        UserError: When they can't be written.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"can't create {folder}: {error.strerror}") from error
    directory.write_text(folder / CLASSES, _table(found))
    write_logits(folder / LOGITS, found.logits, found.labels, found.index)
    save(draw_confusion(found.confusion, found.images.classes), folder / CONFUSION)
    save(draw_reliability(found.reliability(), calibration_error), folder / RELIABILITY)
    if wrong := found.most_wrong():
        pictures = [found.picture(place) for place in wrong]
        captions = [found.caption(place) for place in wrong]
        save(contact_sheet(pictures, captions, _title(found, len(wrong))), folder / WRONG)
    else:
        # One of an earlier checkpoint may be there.
        (folder / WRONG).unlink(missing_ok=True)


def _title(found: Evaluation, shown: int) -> str:
    wrong = len(found.labels) - int(found.confusion.trace())
    which = f"the {shown} most wrong of {wrong:,} wrong answers" if wrong > shown else "all wrong answers"
    return f"{which}: true class, and below it the guess"


def _table(found: Evaluation) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["class", "images", "right", "accuracy", "taken_for", "times"])
    for one in found.by_class():
        accuracy = f"{one.accuracy:.6f}" if one.images else ""
        writer.writerow([one.name, one.images, one.right, accuracy, one.taken_for, one.times or ""])
    return file.getvalue()
