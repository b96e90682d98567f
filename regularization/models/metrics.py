"""Metrics of an epoch: loss, accuracy, calibration error and scores by class, accumulated on the device."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from regularization.errors import UserError, did_you_mean
from regularization.models.objective import MODES
from regularization.runs.distributed import gather_rows

# Prefixes of further metrics. Lightning's LearningRateMonitor logs lr-<optimizer>.
_PREFIXES = ("norm/", "penalty/", "lr-")


def check_is_metric(user: str, metric: str, loggers: Iterable[object]) -> None:
    """Checks that ``metric``, which ``user`` monitors, is one that a run logs.

    Args:
        user: What monitors the metric, for the message.
        metric: Its name.
        loggers: The model and the callbacks. If one is from neither this program nor Lightning, it may log any metric.

    Raises:
        UserError: If it is not; the message suggests the closest one.
    """
    own = all(type(it).__module__.split(".")[0] in ("regularization", "lightning") for it in loggers)
    if own and metric not in MODES and not metric.startswith(_PREFIXES):
        raise UserError(f"{user} monitors {metric}, which is not a metric{did_you_mean(metric, MODES)}")


def check_mode(user: str, metric: str, mode: str) -> None:
    """Checks that ``mode``, with which ``user`` monitors ``metric``, is the direction in which the metric improves.

    Raises:
        UserError: If it is the opposite.
    """
    if (right := MODES.get(metric)) and mode != right:
        better = "higher" if right == "max" else "lower"
        raise UserError(
            f"{user} monitors {metric}, which is better when {better}: its mode must be {right}, not {mode}"
        )


class EpochMetrics:
    """Loss, accuracy and scores by class of an epoch. An update does not wait for the device.

    The sums are plain tensors, for two reasons: torchmetrics takes a quarter of a millisecond per step for the same two
    metrics, which is as long as a step of a small network. And in 16-bit precision, Lightning converts the buffers of
    an nn.Module, so that the sums would stop growing.

    Args:
        calibration: Whether to compute the calibration error too, and the scores of ``class_scores``.
    """

    def __init__(self, calibration: bool = False) -> None:
        # Sums of losses and of correct predictions. float32 counts exactly up to 16 million images.
        self._sums = torch.zeros(2)
        self._images = 0
        self._last_sums = torch.zeros(3)  # the sums and the number of images at the last call of running_means
        self._calibration = calibration
        self._predictions: list[Tensor] = []  # confidence, class and true class, (B, 3) per batch

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, logits ``(B, C)`` and labels ``(B,)``."""
        correct = (logits.argmax(dim=1) == labels).sum()
        loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
        batch_sums = torch.stack([loss * len(labels), correct.to(loss.dtype)])
        self._sums = self._sums.to(batch_sums.device) + batch_sums
        self._images += len(labels)
        if self._calibration:
            confidence, prediction = logits.float().softmax(dim=1).max(dim=1)
            self._predictions.append(torch.stack([confidence, prediction.float(), labels.float()], dim=1))

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """The sums of losses, of correct predictions and of images so far, per process: ``(processes, 3)``."""
        return {"parts": gather_rows(self._sums_and_images(trainer)[None], trainer).cpu()}

    def load_state_dict(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Restores the sums of each process. If the number of processes changed, the first one gets the total."""
        parts: Tensor = state["parts"]
        if len(parts) != trainer.world_size:
            parts = torch.stack([parts.sum(dim=0), *torch.zeros(trainer.world_size - 1, 3)])
        self._last_sums = parts[trainer.global_rank]
        self._sums, self._images = self._last_sums[:2], int(self._last_sums[2])

    def running_means(self, trainer: Trainer) -> dict[str, float]:
        """Means over the images of all processes since the last call of this or ``compute``; waits for the device."""
        sums = self._sums_and_images(trainer)
        new = trainer.strategy.reduce(sums - self._last_sums.to(sums.device), reduce_op="sum")
        self._last_sums = sums
        loss, correct, images = new.tolist()
        return {"loss": loss / images, "accuracy": correct / images}

    def compute(self, trainer: Trainer) -> dict[str, Tensor]:
        """Means over the images of all processes since the last call; resets the sums."""
        total = trainer.strategy.reduce(self._sums_and_images(trainer), reduce_op="sum")
        assert isinstance(total, Tensor)
        loss, accuracy = total[:2] / total[2]
        means = {"loss": loss, "accuracy": accuracy}
        if self._calibration:
            confidence, prediction, label = gather_rows(torch.cat(self._predictions), trainer).T.contiguous()
            means["calibration_error"] = calibration_error(confidence, prediction == label)
            means |= class_scores(prediction.long(), label.long())
            self._predictions.clear()
        self._sums, self._images, self._last_sums = torch.zeros(2), 0, torch.zeros(3)
        return means

    def _sums_and_images(self, trainer: Trainer) -> Tensor:
        return torch.cat([self._sums, self._sums.new_tensor([self._images])]).to(trainer.strategy.root_device)


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    """The expected calibration error: the mean difference of confidence and accuracy over bins of confidence.

    It is Σ_b n_b/N · |accuracy_b − confidence_b| over bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    Args:
        confidence: Probability of the most likely class, float ``(N,)``.
        correct: Whether that class is the true one, ``(N,)``, as bool or as 0 and 1.
        bins: Number of bins. A confidence of exactly 1 has a bin of its own.

    Returns:
        A scalar from 0 to 1.
    """
    return binary_calibration_error(confidence, correct.long(), bins, norm="l1", validate_args=False)


def class_scores(predictions: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Scores in which every class counts the same, however many images it has.

    ``balanced_accuracy`` is the mean over classes of the fraction of their images that is predicted correctly, and
    ``macro_f1`` the mean over classes of 2·TP / (2·TP + FP + FN). The former leaves out classes without images, the
    latter leaves out classes with neither images nor predictions.

    Args:
        predictions: The predicted classes, int64 ``(N,)``.
        labels: The true classes, int64 ``(N,)``.

    Returns:
        Both by name, each a scalar from 0 to 1.
    """
    count = int(torch.stack([predictions, labels]).max()) + 1
    images, predicted, correct = (
        torch.bincount(classes, minlength=count).float()
        for classes in (labels, predictions, labels[predictions == labels])
    )
    return {
        "balanced_accuracy": (correct / images)[images > 0].mean(),
        "macro_f1": (2 * correct / (images + predicted))[images + predicted > 0].mean(),
    }
