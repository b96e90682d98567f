"""Private parts of torchvision: the policies of AutoAugment."""

from torchvision.transforms.v2 import AutoAugment, AutoAugmentPolicy

Step = tuple[str, float, int | None]


def auto_augment_pairs(data_set: str) -> list[tuple[Step, Step]]:
    """The 25 pairs of operations of AutoAugment for ``cifar10``, ``imagenet`` or ``svhn``.

    Each operation has a name, a probability and a magnitude from 0 to 9, or None. The public class only applies them,
    by random numbers of the global generator.
    """
    pairs: list[tuple[Step, Step]] = AutoAugment(AutoAugmentPolicy(data_set))._policies
    return pairs
