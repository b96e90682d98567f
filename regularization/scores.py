"""Scores: loss, accuracy and calibration of an epoch, by torchmetrics."""

from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy


class Scores:
    """Loss and accuracy of an epoch: sums that stay on the device, so that no step waits for them.

    No nn.Module: in 16-bit precision Lightning converts a module's metrics too, and their sums would stop growing.

    Args:
        calibration: Also the expected calibration error (Guo et al. 2017, arXiv:1706.04599): the mean distance of
            confidence and accuracy over 15 bins of confidence.
    """

    def __init__(self, calibration: bool = False) -> None:
        # "disable": looking for NaN would make the host wait for the device at every step. In torchmetrics 1.9 it
        # also switches weights off, so a batch's loss is entered once for each of its images.
        self.metrics: dict[str, Metric] = {
            "loss": MeanMetric(nan_strategy="disable"),
            "accuracy": MulticlassAccuracy(average="micro", validate_args=False),
        }
        if calibration:
            # Whether the most likely class is right, as a yes or no with the confidence as its probability.
            self.metrics["calibration_error"] = BinaryCalibrationError(15, "l1", validate_args=False)
        for metric in self.metrics.values():
            metric.persistent(True)

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, logits ``(B, C)`` and labels ``(B,)``."""
        for metric in self.metrics.values():
            metric.to(labels.device)
        self.metrics["loss"].update(loss.float().expand(len(labels)))
        self.metrics["accuracy"].update(logits, labels)
        if "calibration_error" in self.metrics:
            confidence, guess = logits.float().softmax(dim=1).max(dim=1)
            self.metrics["calibration_error"].update(confidence, (guess == labels).long())

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {name: dict(metric.state_dict()) for name, metric in self.metrics.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from these sums."""
        for name, sums in state.items():
            self.metrics[name].load_state_dict(sums)
            # So that it may be computed though nothing more was added.
            self.metrics[name]._update_count = 1

    def compute(self) -> dict[str, Tensor]:
        """The means over all images since the last call, which starts anew."""
        means = {name: metric.compute() for name, metric in self.metrics.items()}
        for metric in self.metrics.values():
            metric.reset()
        return means
