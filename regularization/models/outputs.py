"""What a network returns: logits, alone or with the logits of auxiliary classifiers."""

from typing import Any

from torch import Tensor

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
