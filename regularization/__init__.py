"""Does regularization help this image classifier, which kind, and how strong should λ be?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from regularization.classifier import ImageClassifier as ImageClassifier
    from regularization.data.modules import CIFAR10 as CIFAR10
    from regularization.data.modules import CIFAR100 as CIFAR100
    from regularization.data.modules import Digits as Digits
    from regularization.data.modules import ImageData as ImageData
    from regularization.data.preprocess import Preprocess as Preprocess
    from regularization.networks import ResNet as ResNet
    from regularization.networks import SmallResNet as SmallResNet
    from regularization.schedules import WarmupDecay as WarmupDecay

# Public name → module. They are imported when first used: torch and lightning take seconds.
_HOMES = {
    "ImageClassifier": "classifier",
    "CIFAR10": "data.modules",
    "CIFAR100": "data.modules",
    "Digits": "data.modules",
    "ImageData": "data.modules",
    "Preprocess": "data.preprocess",
    "ResNet": "networks",
    "SmallResNet": "networks",
    "WarmupDecay": "schedules",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
