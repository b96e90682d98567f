"""Does regularization help this image classifier, which kind, and how strong should λ be?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from regularization.api import fit as fit
    from regularization.api import sweep as sweep
    from regularization.callbacks.averaging import EMA as EMA
    from regularization.callbacks.averaging import Lookahead as Lookahead
    from regularization.data.datamodules import CIFAR10 as CIFAR10
    from regularization.data.datamodules import CIFAR100 as CIFAR100
    from regularization.data.datamodules import Digits as Digits
    from regularization.data.datamodules import ImageData as ImageData
    from regularization.data.image_folder import ImageFolder as ImageFolder
    from regularization.data.preprocess import Preprocess as Preprocess
    from regularization.errors import Mistake as Mistake
    from regularization.inference.trained_model import Trained as Trained
    from regularization.inference.trained_model import load as load
    from regularization.models.classifier import ImageClassifier as ImageClassifier
    from regularization.models.networks import ResNet as ResNet
    from regularization.models.networks import SmallResNet as SmallResNet
    from regularization.models.networks import WhitenedNet as WhitenedNet
    from regularization.optim.penalties import L1 as L1
    from regularization.optim.penalties import L2 as L2
    from regularization.optim.penalties import L2SP as L2SP
    from regularization.optim.penalties import ElasticNet as ElasticNet
    from regularization.optim.penalties import GroupLasso as GroupLasso
    from regularization.optim.penalties import MaxNorm as MaxNorm
    from regularization.optim.penalties import Orthogonal as Orthogonal
    from regularization.optim.penalties import Penalty as Penalty
    from regularization.optim.schedules import Cosine as Cosine
    from regularization.optim.schedules import LikeLearningRate as LikeLearningRate
    from regularization.optim.schedules import Linear as Linear
    from regularization.optim.schedules import Steps as Steps
    from regularization.optim.schedules import StrengthSchedule as StrengthSchedule
    from regularization.optim.schedules import WarmupDecay as WarmupDecay
    from regularization.optim.weight_decay import SGDW as SGDW

# Public name → module. They are imported when first used: torch and lightning take seconds.
_HOMES = {
    "fit": "api",
    "sweep": "api",
    "EMA": "callbacks.averaging",
    "Lookahead": "callbacks.averaging",
    "ImageClassifier": "classifier",
    "ImageFolder": "data.folder",
    "CIFAR10": "data.modules",
    "CIFAR100": "data.modules",
    "Digits": "data.modules",
    "ImageData": "data.modules",
    "Preprocess": "data.preprocess",
    "Mistake": "mistakes",
    "ResNet": "networks",
    "SmallResNet": "networks",
    "WhitenedNet": "networks",
    "ElasticNet": "penalties",
    "GroupLasso": "penalties",
    "L1": "penalties",
    "L2": "penalties",
    "L2SP": "penalties",
    "MaxNorm": "penalties",
    "Orthogonal": "penalties",
    "Penalty": "penalties",
    "Cosine": "schedules",
    "LikeLearningRate": "schedules",
    "Linear": "schedules",
    "Steps": "schedules",
    "StrengthSchedule": "schedules",
    "WarmupDecay": "schedules",
    "Trained": "trained",
    "load": "trained",
    "SGDW": "weight_decay",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
