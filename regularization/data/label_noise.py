"""Random label noise, to study how regularization affects training with wrong labels."""

import dataclasses

import torch
from torch import Tensor

from regularization.data.augmentation.augment import uniform
from regularization.data.image_files import ImageFiles
from regularization.data.readers import Images

# Separates these draws from those of augmentation, which use an epoch as the second key.
_KEY = 2**40
_WRONG, _CLASS = range(2)


def with_wrong_labels(images: Images | ImageFiles, fraction: float, seed: int) -> Images | ImageFiles:
    """The same images, with a fraction of their labels replaced by ``corrupt_labels``."""
    if not fraction:
        return images
    return dataclasses.replace(images, labels=corrupt_labels(images.labels, fraction, len(images.classes), seed))


def corrupt_labels(labels: Tensor, fraction: float, num_classes: int, seed: int) -> Tensor:
    """Replaces each label with probability ``fraction`` by one of the other classes, all of them equally likely.

    This is symmetric label noise (Zhang et al. 2017, arXiv:1611.03530, replace labels by any class instead). The draws
    for an image depend on its index and the seed only. A label that is replaced with a small fraction is replaced by
    the same class with a larger one.

    Args:
        labels: int64 ``(N,)``.
        fraction: Probability of a wrong label.
        num_classes: Number of classes, C.
        seed: Seed of the draws.

    Returns:
        int64 ``(N,)``.

    Example:
        >>> corrupt_labels(torch.zeros(10, dtype=torch.int64), 0.4, num_classes=10, seed=0).tolist()
        [0, 0, 0, 8, 0, 4, 0, 0, 0, 0]
    """
    index = torch.arange(len(labels))
    wrong = uniform(index, seed, _KEY, _WRONG) < fraction
    # From 1 to C − 1: never 0, which would be the right class.
    shift = 1 + (uniform(index, seed, _KEY, _CLASS) * (num_classes - 1)).long()
    return torch.where(wrong, (labels + shift) % num_classes, labels)
