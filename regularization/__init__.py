"""Does regularization improve an image classifier? Which kind, and how strong should it be?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from regularization.api import fit as fit
    from regularization.api import sweep as sweep
    from regularization.callbacks.averaging import EMA as EMA
    from regularization.callbacks.averaging import LAWA as LAWA
    from regularization.callbacks.averaging import SWA as SWA
    from regularization.callbacks.averaging import Lookahead as Lookahead
    from regularization.data.augmentation.augment import Augmentation as Augmentation
    from regularization.data.augmentation.policies import AugMix as AugMix
    from regularization.data.augmentation.policies import AutoAugment as AutoAugment
    from regularization.data.augmentation.policies import RandAugment as RandAugment
    from regularization.data.augmentation.policies import RandomErasing as RandomErasing
    from regularization.data.augmentation.policies import TrivialAugment as TrivialAugment
    from regularization.data.datamodules import CIFAR10 as CIFAR10
    from regularization.data.datamodules import CIFAR100 as CIFAR100
    from regularization.data.datamodules import Digits as Digits
    from regularization.data.datasets.arrays import Arrays as Arrays
    from regularization.data.datasets.hugging_face import HuggingFaceData as HuggingFaceData
    from regularization.data.datasets.torchvision_data import TorchvisionData as TorchvisionData
    from regularization.data.image_data import ImageData as ImageData
    from regularization.data.image_folder import ImageFolder as ImageFolder
    from regularization.data.preprocess import Preprocess as Preprocess
    from regularization.data.readers import Images as Images
    from regularization.data.sampling import Batch as Batch
    from regularization.errors import UserError as UserError
    from regularization.inference.trained_model import TrainedModel as TrainedModel
    from regularization.inference.trained_model import load as load
    from regularization.models.classifier import ImageClassifier as ImageClassifier
    from regularization.models.networks import ResNet as ResNet
    from regularization.models.networks import SmallResNet as SmallResNet
    from regularization.models.networks import WhitenedNet as WhitenedNet
    from regularization.optim.function_penalties import ConfidencePenalty as ConfidencePenalty
    from regularization.optim.function_penalties import FunctionPenalty as FunctionPenalty
    from regularization.optim.function_penalties import GradientPenalty as GradientPenalty
    from regularization.optim.function_penalties import JacobianPenalty as JacobianPenalty
    from regularization.optim.function_penalties import LogitPenalty as LogitPenalty
    from regularization.optim.function_penalties import RDrop as RDrop
    from regularization.optim.function_penalties import ZLoss as ZLoss
    from regularization.optim.muon import MuonAdamW as MuonAdamW
    from regularization.optim.penalties import L1 as L1
    from regularization.optim.penalties import L2 as L2
    from regularization.optim.penalties import ElasticNet as ElasticNet
    from regularization.optim.penalties import GroupLasso as GroupLasso
    from regularization.optim.penalties import MaxNorm as MaxNorm
    from regularization.optim.penalties import Orthogonal as Orthogonal
    from regularization.optim.penalties import Penalty as Penalty
    from regularization.optim.references import L2EMA as L2EMA
    from regularization.optim.references import L2SP as L2SP
    from regularization.optim.schedules import Cosine as Cosine
    from regularization.optim.schedules import LikeLearningRate as LikeLearningRate
    from regularization.optim.schedules import Linear as Linear
    from regularization.optim.schedules import SchedulerSequence as SchedulerSequence
    from regularization.optim.schedules import Steps as Steps
    from regularization.optim.schedules import StrengthSchedule as StrengthSchedule
    from regularization.optim.schedules import WarmupDecay as WarmupDecay
    from regularization.optim.sharpness import ASAM as ASAM
    from regularization.optim.sharpness import SAM as SAM
    from regularization.optim.weight_decay import SGDW as SGDW

# Public name → module. They are imported when first used: torch and lightning take seconds.
_MODULES = {
    "fit": "api",
    "sweep": "api",
    "EMA": "callbacks.averaging",
    "LAWA": "callbacks.averaging",
    "SWA": "callbacks.averaging",
    "Lookahead": "callbacks.averaging",
    "ImageClassifier": "models.classifier",
    "Augmentation": "data.augmentation.augment",
    "AugMix": "data.augmentation.policies",
    "AutoAugment": "data.augmentation.policies",
    "RandAugment": "data.augmentation.policies",
    "RandomErasing": "data.augmentation.policies",
    "TrivialAugment": "data.augmentation.policies",
    "ImageFolder": "data.image_folder",
    "Arrays": "data.datasets.arrays",
    "HuggingFaceData": "data.datasets.hugging_face",
    "TorchvisionData": "data.datasets.torchvision_data",
    "CIFAR10": "data.datamodules",
    "CIFAR100": "data.datamodules",
    "Digits": "data.datamodules",
    "ImageData": "data.image_data",
    "Images": "data.readers",
    "Batch": "data.sampling",
    "Preprocess": "data.preprocess",
    "UserError": "errors",
    "ResNet": "models.networks",
    "SmallResNet": "models.networks",
    "WhitenedNet": "models.networks",
    "ConfidencePenalty": "optim.function_penalties",
    "FunctionPenalty": "optim.function_penalties",
    "GradientPenalty": "optim.function_penalties",
    "JacobianPenalty": "optim.function_penalties",
    "LogitPenalty": "optim.function_penalties",
    "RDrop": "optim.function_penalties",
    "ZLoss": "optim.function_penalties",
    "MuonAdamW": "optim.muon",
    "ElasticNet": "optim.penalties",
    "GroupLasso": "optim.penalties",
    "L1": "optim.penalties",
    "L2": "optim.penalties",
    "MaxNorm": "optim.penalties",
    "Orthogonal": "optim.penalties",
    "Penalty": "optim.penalties",
    "L2EMA": "optim.references",
    "L2SP": "optim.references",
    "Cosine": "optim.schedules",
    "LikeLearningRate": "optim.schedules",
    "Linear": "optim.schedules",
    "SchedulerSequence": "optim.schedules",
    "Steps": "optim.schedules",
    "StrengthSchedule": "optim.schedules",
    "WarmupDecay": "optim.schedules",
    "ASAM": "optim.sharpness",
    "SAM": "optim.sharpness",
    "TrainedModel": "inference.trained_model",
    "load": "inference.trained_model",
    "SGDW": "optim.weight_decay",
}

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
