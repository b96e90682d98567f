"""The options of ``fit``, ``validate`` and ``test``, in the order of ``--help``."""

import inspect
import re
from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

import regularization
from regularization.callbacks import averaging
from regularization.data import image_folder
from regularization.data.augmentation import policies
from regularization.data.datamodules import CIFAR10
from regularization.data.datasets import arrays, hugging_face, torchvision_data
from regularization.data.image_data import ImageData
from regularization.errors import UserError
from regularization.internals.jsonargparse import try_integers_first
from regularization.models import networks
from regularization.models.classifier import ImageClassifier
from regularization.models.objective import DEFAULT
from regularization.optim import function_penalties, muon, penalties, references, schedules, sharpness, weight_decay
from regularization.runs import safe_loading
from regularization.training.help import actions_of
from regularization.training.parser import Parser

# Modules whose classes can be given by name, without the module path. It is enough that they are imported.
SHORT_NAMES = (
    *(arrays, averaging, function_penalties, hugging_face, image_folder, muon, networks),
    *(penalties, policies, references, schedules, sharpness, torchvision_data, weight_decay),
)

DESCRIPTIONS = {
    "fit": "Trains a network by its config, or continues a run.",
    "validate": "Scores a checkpoint on the validation images.",
    "test": "Scores a checkpoint on the test images.",
}

# Options that a command does not use: they are missing in its help, and an error on its command line. Configs may
# contain them, because several commands can share a config.
_ONLY_FIT = ("hours", "test", "callbacks", "objective", "checkpoint")
UNUSED = {"fit": ("preprocess",), "validate": _ONLY_FIT, "test": _ONLY_FIT}

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "devices": 1,
    "max_epochs": 20,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    # Our sampler shuffles as a function of (seed, epoch, step); Lightning's would replace it.
    "use_distributed_sampler": False,
}

# Title and description of each group of options.
_CLASSES = "A class has options of its own, such as --model.optimizer.lr: --model.optimizer.help SGD lists them."
_DATA_OPTIONS = ", ".join(inspect.signature(ImageData).parameters)
_GROUPS = {
    "model": ("model", f"The network and how it is trained. {_CLASSES}"),
    "data": (
        "data",
        f"--data.help Digits lists the options of Digits. All data sets have --data.NAME for {_DATA_OPTIONS}.",
    ),
    "trainer": (
        "Lightning's options",
        "The options of Lightning's Trainer. max_epochs, accelerator and precision matter most.",
    ),
}


class TrainingParser(Parser, LightningArgumentParser):
    """LightningCLI's parser, with one-line error messages."""

    def known_names(self) -> list[str]:
        """Adds the options of the classes that are used most, and the names of classes."""
        options = super().known_names()
        if "model.optimizer" not in options:
            return options
        public = [getattr(regularization, name) for name in regularization.__all__ if name[0].isupper()]
        classes = [cls for cls in public if not issubclass(cls, Exception)]
        arguments = [name for cls in [*classes, torch.optim.SGD] for name in _init_arguments(cls)]
        common = {"data": CIFAR10, "model.network": regularization.SmallResNet, "model.optimizer": torch.optim.SGD}
        nested = [f"{option}.{name}" for option, cls in common.items() for name in _init_arguments(cls)]
        groups = [option.partition(".")[0] for option in options]
        return [*options, *groups, *arguments, *regularization.__all__, *torch.optim.__all__, *nested]


def make_parser(command: str) -> TrainingParser:
    """The parser of ``fit``, ``validate`` or ``test``, for callers that only need its options."""
    parser = TrainingParser(usage=usage(command), description=DESCRIPTIONS[command])
    parser.add_argument("-c", "--config", action="config")
    add_run_arguments(parser)
    add_experiment_arguments(parser, command)
    return parser


def usage(command: str) -> str:
    """The usage line of a command."""
    return f"regularization {command} [--config FILE ...] [options]"


def add_run_arguments(parser: LightningArgumentParser) -> None:
    """Adds the options of a single invocation, and the seed."""
    seed = "Seed of the weights, the order of images and augmentation; true picks one."
    parser.add_argument("--seed_everything", type=bool | int, default=0, metavar="INT", help=seed)
    # Added here and not taken from Trainer.fit, so that it comes first in the help, with a text that fits.
    checkpoint = "Checkpoint to continue or evaluate: best or last of the latest run, a file, a run folder."
    parser.add_argument("--ckpt_path", type=str | None, default=None, metavar="best|last|PATH", help=checkpoint)
    threads = "CPU threads of PyTorch; null for its default, one per core."
    parser.add_argument("--threads", type=PositiveInt | None, default=None, metavar="INT", help=threads)
    hours = "Stop fit after so many hours; --ckpt_path last continues the run."
    parser.add_argument("--hours", type=PositiveFloat | None, default=None, metavar="NUMBER", help=hours)
    test = "After fit: evaluate this checkpoint on the test images, as the command test does."
    parser.add_argument("--test", type=Literal["best", "last"] | None, default=None, metavar="best|last", help=test)
    which = "Images of another size than in training: checkpoint refuses them, config evaluates them."
    mode: Any = {"type": Literal["checkpoint", "config"], "default": "checkpoint", "metavar": "MODE"}
    parser.add_argument("--preprocess", help=which, **mode)
    parser.add_argument("--trust", action="store_true", help=safe_loading.HELP)


def add_experiment_arguments(parser: LightningArgumentParser, command: str) -> None:
    """Adds the options of model, data, callbacks and trainer; network and data set have defaults."""
    parser.add_lightning_class_args(ImageClassifier, "model")
    parser.set_defaults({"model.network": {"class_path": "regularization.ResNet"}})
    # Not with add_lightning_class_args: with a default, it makes data optional, and every error message unreadable.
    default = {"class_path": "regularization.CIFAR10"}
    parser.add_subclass_arguments(ImageData, "data", default=default, metavar="CLASS", help="The data set.")
    callbacks = "Callbacks by names that you choose, such as EMA or EarlyStopping; several configs' are combined."
    group = parser.add_argument_group("callbacks")
    group.add_argument("--callbacks", type=dict[str, Callback | None], default={}, help=callbacks)
    objective = "Metric that chooses best.ckpt; max:NAME or min:NAME for your own."
    parser.add_argument("--objective", type=str, default=DEFAULT, metavar="METRIC", help=objective)
    group = parser.add_argument_group("checkpoint")
    for name, type_, default_value in (("minutes", PositiveFloat, 10.0), ("steps", PositiveInt, None)):
        interval: Any = {"type": type_ | None, "default": default_value}
        group.add_argument(f"--checkpoint.{name}", **interval, help=f"Write last.ckpt every N {name}, too.")
    # Last, so that its fifty options follow ours in the help.
    parser.add_lightning_class_args(Trainer, "trainer")
    try_integers_first(parser)
    parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
    assert parser.groups is not None
    for name, (title, description) in _GROUPS.items():
        parser.groups[name].title, parser.groups[name].description = title, description
    for action in actions_of(parser):
        if action.dest.partition(".")[0] in UNUSED[command]:
            action.help = SUPPRESS


def check_used(command: str, args: Sequence[str]) -> None:
    """Rejects options that a command does not use.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        args: The command line. Config files are not read.

    Raises:
        UserError: When there is such an option.
    """
    for name in UNUSED[command]:
        if any(re.match(rf"--{name}(\W|$)", word) for word in args):
            raise UserError(f"{command} does not use --{name}: remove this option")


def _init_arguments(cls: type) -> list[str]:
    return [name for base in cls.__mro__[:-1] for name in inspect.signature(base).parameters]
