"""The outputs of a network, with or without auxiliary classifiers, and the loss of a training batch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional

from regularization.errors import UserError

# The weight of each auxiliary loss (Szegedy et al. 2014, arXiv:1409.4842, section 5).
AUXILIARY_WEIGHT = 0.3


def split_output(output: Any, num_classes: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """Splits the output of a network into its logits and those of its auxiliary classifiers.

    Args:
        output: The logits; or a tuple that begins with them. Further tensors of the same shape are the logits of
            auxiliary classifiers, as torchvision's ``googlenet`` and ``inception_v3`` return them in training mode;
            anything else in the tuple is not used.
        num_classes: The number of classes, if it is known.

    Returns:
        The logits ``(B, C)``, and a list of auxiliary ones.

    Raises:
        UserError: If there are no logits, or not as many as classes.
    """
    first, *rest = output if isinstance(output, tuple) and output else (output,)
    if not isinstance(first, Tensor) or first.ndim != 2:
        found = f"a tensor of shape {tuple(first.shape)}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
        raise UserError(f"model.network must return logits of shape (images, classes), not {found}")
    if num_classes is not None and first.shape[1] != num_classes:
        raise UserError(f"model.network returns {first.shape[1]} logits per image, but there are {num_classes} classes")
    return first, [other for other in rest if isinstance(other, Tensor) and other.shape == first.shape]


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
        targets: Classes ``(B,)``, or probabilities ``(B, num_classes)`` if images are mixed.
        label_smoothing: Fraction of each target that is spread evenly over all classes.
        class_weights: The weight of each class ``(num_classes,)``; None means that all weights are 1.
    """
    if class_weights is None:
        return functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    # A sum: PyTorch's weighted means over the parts of a batch do not average to the mean over the whole batch.
    weights = class_weights.to(logits)
    total = functional.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing, reduction="sum")
    return total / len(logits)


def with_auxiliary(loss: Tensor, auxiliary: Sequence[Tensor], targets: Tensor) -> Tensor:
    """``loss`` plus 0.3 times the cross-entropy of each auxiliary classifier's logits."""
    for logits in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * functional.cross_entropy(logits, targets)
    return loss
