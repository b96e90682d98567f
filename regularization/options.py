"""The options of ``fit``, ``validate`` and ``test``, in the order in which ``--help`` shows them."""

import inspect
from typing import Literal

from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser

from regularization import networks, penalties, schedules, trust, weight_decay
from regularization.callbacks import averaging
from regularization.classifier import ImageClassifier
from regularization.data import folder
from regularization.data.modules import ImageData

# Imported, their classes can be named without the module's path.
SHORT_NAMES = (averaging, folder, networks, penalties, schedules, weight_decay)

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "devices": 1,
    "max_epochs": 20,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    # The order of our batches is already a function of (seed, epoch, step); Lightning's sampler would replace it.
    "use_distributed_sampler": False,
}

# Headings of --help, and what is said below them.
_CLASSES = "A class has options of its own, --model.optimizer.lr for instance: --model.optimizer.help SGD shows them."
_OF_DATA = ", ".join(f"--data.{name}" for name in inspect.signature(ImageData).parameters)
GROUPS = {
    "model": ("model", f"The network and how it is trained. {_CLASSES}"),
    "data": ("data", f"--data.help Digits shows its own options and those of every data set: {_OF_DATA}."),
    "trainer": (
        "Lightning's options",
        "Its Trainer's, in its words. max_epochs, accelerator and precision matter most.",
    ),
}


def add_start(parser: LightningArgumentParser) -> None:
    """What belongs to one start, and the seed."""
    drawn = "Seed of the weights, of order and of augmentation; true draws one."
    parser.add_argument("--seed_everything", type=bool | int, default=0, metavar="INT", help=drawn)
    # Of our own, not the Trainer's, so that it has a place in front and a text that fits.
    found = "The checkpoint to go on from or to score: best or last of the config's newest run, or a file."
    parser.add_argument("--ckpt_path", type=str | None, default=None, metavar="best|last|FILE", help=found)
    cores = "Threads of PyTorch on the CPU; null leaves the choice to it, which is one for each core."
    parser.add_argument("--threads", type=PositiveInt | None, default=None, metavar="INT", help=cores)
    after = "After fit: score this checkpoint of the run on the test images, as the command test does."
    parser.add_argument("--test", type=Literal["best", "last"] | None, default=None, metavar="best|last", help=after)
    parser.add_argument("--trust", action="store_true", help=trust.HELP)


def add_experiment(parser: LightningArgumentParser) -> None:
    """Model, data, callbacks and trainer, with a default network and data set: ``--data.root`` needs no config."""
    parser.add_lightning_class_args(ImageClassifier, "model")
    parser.set_defaults({"model.network": {"class_path": "regularization.ResNet"}})
    # Not by add_lightning_class_args: without a default it makes data optional, which garbles every message.
    chosen = {"class_path": "regularization.CIFAR10"}
    parser.add_subclass_arguments(ImageData, "data", default=chosen, metavar="CLASS", help="The data set.")
    named = "Callbacks by names of one's own, EMA or EarlyStopping for instance; several configs' are combined."
    group = parser.add_argument_group("callbacks")
    group.add_argument("--callbacks", type=dict[str, Callback | None], default={}, help=named)
    every = "last.ckpt is written within epochs as well: after so many"
    group = parser.add_argument_group("checkpoint")
    group.add_argument("--checkpoint.minutes", type=PositiveFloat | None, default=10.0, help=f"{every} minutes.")
    group.add_argument("--checkpoint.steps", type=PositiveInt | None, default=None, help=f"{every} steps.")
    # Last, so that help has its fifty options behind ours.
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
    assert parser.groups is not None
    for name, (title, about) in GROUPS.items():
        parser.groups[name].title, parser.groups[name].description = title, about
