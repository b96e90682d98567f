"""EpochMetrics: loss, accuracy and calibration of an epoch, as sums that stay on the device."""

from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from regularization.runs.distributed import gather_rows


class EpochMetrics:
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
        self._before = torch.zeros(3)  # what running_means() has told
        self._calibration = BinaryCalibrationError(15, "l1", validate_args=False) if calibration else None

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss, logits ``(B, C)`` and labels ``(B,)``."""
        right = (logits.argmax(dim=1) == labels).sum()
        loss = loss.to(torch.promote_types(loss.dtype, torch.float32))
        batch = torch.stack([loss * len(labels), right.to(loss.dtype)])
        self._sums = self._sums.to(batch.device) + batch
        self._images += len(labels)
        if self._calibration is not None:
            # Whether the most likely class is right, as a yes or no with the confidence as its probability.
            confidence, guess = logits.float().softmax(dim=1).max(dim=1)
            self._calibration.to(labels.device).update(confidence, (guess == labels).long())

    def state_dict(self, trainer: Trainer) -> dict[str, Any]:
        """Each process's sums of losses, of right answers and of images so far, ``(processes, 3)``."""
        return {"parts": gather_rows(self._with_images(trainer)[None], trainer).cpu()}

    def load_state_dict(self, state: dict[str, Any], trainer: Trainer) -> None:
        """Each process goes on from its own sums; the first one from all, when there were more or fewer processes."""
        parts: Tensor = state["parts"]
        if len(parts) != trainer.world_size:
            parts = torch.stack([parts.sum(dim=0), *torch.zeros(trainer.world_size - 1, 3)])
        self._before = parts[trainer.global_rank]
        self._sums, self._images = self._before[:2], int(self._before[2])

    def running_means(self, trainer: Trainer) -> dict[str, float]:
        """The means over all processes' images since this or ``compute`` was last called; waits for the device."""
        sums = self._with_images(trainer)
        new = trainer.strategy.reduce(sums - self._before.to(sums.device), reduce_op="sum")
        self._before = sums
        loss, right, images = new.tolist()
        return {"loss": loss / images, "accuracy": right / images}

    def compute(self, trainer: Trainer) -> dict[str, Tensor]:
        """The means over all processes' images since the last call, which starts anew."""
        total = trainer.strategy.reduce(self._with_images(trainer), reduce_op="sum")
        assert isinstance(total, Tensor)
        loss, accuracy = total[:2] / total[2]
        means = {"loss": loss, "accuracy": accuracy}
        if self._calibration is not None:
            means["calibration_error"] = self._calibration.compute()
            self._calibration.reset()
        self._sums, self._images, self._before = torch.zeros(2), 0, torch.zeros(3)
        return means

    def _with_images(self, trainer: Trainer) -> Tensor:
        return torch.cat([self._sums, self._sums.new_tensor([self._images])]).to(trainer.strategy.root_device)
