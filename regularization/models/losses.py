"""The loss of a training batch: cross-entropy, and what is added to it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from regularization.models.outputs import AUXILIARY_WEIGHT


class Losses(NamedTuple):
    """The loss of a training batch, and its parts."""

    logits: Tensor  # (B, num_classes)
    criterion: Tensor  # the cross-entropy alone, which is logged as train_loss
    penalties: dict[str, Tensor]  # λ·R of each penalty on the function of the network
    total: Tensor  # what is minimized


def criterion(logits: Tensor, targets: Tensor, label_smoothing: float, class_weights: Tensor | None) -> Tensor:
    """Cross-entropy of a batch, a mean over its images.

    Args:
        logits: ``(B, num_classes)``.
        targets: Classes ``(B,)``, or probabilities ``(B, num_classes)`` where images are mixed.
        label_smoothing: Fraction of each target that is spread evenly over all classes.
        class_weights: The weight of each class ``(num_classes,)``; None for 1.
    """
    if class_weights is None:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    # A sum, because PyTorch's weighted mean over the parts of a batch is not that over the batch.
    weights = class_weights.to(logits)
    total = functional.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="sum")
    return total / len(logits)


def with_auxiliary(loss: Tensor, auxiliary: Sequence[Tensor], targets: Tensor) -> Tensor:
    """``loss`` and 0.3 of the cross-entropy of each auxiliary classifier's logits."""
    for logits in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(logits, targets)
    return loss
