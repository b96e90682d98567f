"""Scores: loss, accuracy and calibration of an epoch, as sums that stay on the device."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError


class Scores:
    """Loss and accuracy of an epoch, means over its images. No step waits for the device.

    Sums of our own: torchmetrics takes a quarter of a millisecond a step for the same two, as long as a small network
    trains. No nn.Module: in 16-bit precision Lightning converts those, and the sums would stop growing.

    Args:
        calibration: Also the expected calibration error (Guo et al. 2017, arXiv:1706.04599): the mean distance of
            confidence and accuracy over 15 bins of confidence, by torchmetrics.
    """

    def __init__(self, calibration: bool = False) -> None:
        # Of losses and of right answers; float32 counts exactly up to 16 million images.
        self._sums = torch.zeros(2)
        self._images = 0
        self._calibration = BinaryCalibrationError(15, "l1", validate_args=False) if calibration else None

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, logits ``(B, C)`` and labels ``(B,)``."""
        right = (logits.argmax(dim=1) == labels).sum()
        batch = torch.stack([loss.float() * len(labels), right.float()])
        self._sums = self._sums.to(batch.device) + batch
        self._images += len(labels)
        if self._calibration is not None:
            # Whether the most likely class is right, as a yes or no with the confidence as its probability.
            confidence, guess = logits.float().softmax(dim=1).max(dim=1)
            self._calibration.to(labels.device).update(confidence, (guess == labels).long())

    def state_dict(self) -> dict[str, Any]:
        """The sums of loss and right answers so far, and of how many images."""
        return {"sums": self._sums, "images": self._images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from these sums."""
        self._sums, self._images = state["sums"], state["images"]

    def compute(self) -> dict[str, Tensor]:
        """The means over all images since the last call, which starts anew."""
        loss, accuracy = self._sums / self._images
        means = {"loss": loss, "accuracy": accuracy}
        if self._calibration is not None:
            means["calibration_error"] = self._calibration.compute()
            self._calibration.reset()
        self._sums, self._images = torch.zeros(2), 0
        return means
