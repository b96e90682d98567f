"""The options of ``fit``, ``validate`` and ``test``, in the order of ``--help``; and which of their sources wins."""

import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from regularization.callbacks import averaging
from regularization.data import image_folder
from regularization.data.datamodules import ImageData
from regularization.errors import UserError
from regularization.models import networks
from regularization.models.classifier import ImageClassifier
from regularization.models.pretrained import published_normalization
from regularization.optim import penalties, schedules, weight_decay
from regularization.runs import checkpoint_io, directory, safe_loading
from regularization.training.parser import (
    as_text,
    config_paths,
    data_class,
    kept_lambdas,
    read_config,
    with_classes,
    with_combined,
    with_found,
)

# Imported, their classes can be named without the module's path.
SHORT_NAMES = (averaging, image_folder, networks, penalties, schedules, weight_decay)

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
    parser.add_argument("--trust", action="store_true", help=safe_loading.HELP)


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


class Options(LightningCLI):
    """What is asked: by built-in defaults, the checkpoint, config files and the command line; the later ones win.

    Attributes:
        run: The run folder, where it is known already.
        name: Of the config, which names the runs.
        checkpoint: The file to go on from or to score, or None.
        restored: What it holds.
        doubts: What may not have been meant.
    """

    run: Path | None
    _guard: ExitStack  # what holds while the classes of a stranger's checkpoint are made

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and the arguments of the Trainer's methods that are ours to fill in."""
        ours = {"model", "datamodule", "weights_only", "ckpt_path"}
        return {
            "fit": ours | {"train_dataloaders", "val_dataloaders"},
            "validate": ours | {"dataloaders", "verbose"},
            "test": ours | {"dataloaders", "verbose"},
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what belongs to this one start, and the seed."""
        add_start(parser)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds everything else."""
        add_experiment(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses, reads the checkpoint that was named, and parses again on top of the config it holds.

        So the order of precedence is: built-in defaults, the checkpoint, config files, command line.
        """
        assert isinstance(args, list)
        args = with_found(args)
        paths = config_paths(args)
        configs = [read_config(path) for path in paths]
        self.config = parser.parse_args(with_combined(args, configs))
        command = self.config["subcommand"]
        asked = self.config[command]
        self.name = directory.run_name(paths)
        self.checkpoint: Path | None = None
        if asked.ckpt_path is not None:
            self.checkpoint, self.restored = checkpoint_io.find(asked.ckpt_path, self._newest_with)
            self.run = self.run or directory.run_of(self.checkpoint)
            if not asked.trust:
                # What the user has named himself, in his configs or on the command line, was parsed above.
                self._guard.enter_context(safe_loading.restrict_imports(safe_loading.class_paths_in(self.config)))
                self.restored["config"] = safe_loading.strip_download_options(self.restored["config"])
            place = args.index(command) + 1
            based = [*args[:place], "--config", as_text(self.restored["config"]), *args[place:]]
            self.config = parser.parse_args(with_combined(based, [self.restored["config"], *configs]))
            self.config[command].ckpt_path = str(self.checkpoint)
        elif command != "fit":
            raise UserError(f"{command} needs a trained network: --ckpt_path best, last, or a file")
        chosen = self.config[command].model.optimizer
        self.doubts = list(kept_lambdas(chosen, dict(zip(paths, configs, strict=True)), args))

    def _newest_with(self, checkpoint: str) -> Path:
        """The run folder that last or best is looked for in."""
        asked = self.config[self.config["subcommand"]]
        return self.run or directory.latest_with(Path(asked.trainer.default_root_dir or "."), self.name, checkpoint)

    def _parse_ckpt_path(self) -> None:
        """Lightning lets a checkpoint's hyperparameters override the command line; see ``parse_arguments``."""

    def before_instantiate_classes(self) -> None:
        """Tells the network how many classes the data has."""
        config = self.config[self.subcommand]
        num_classes = data_class(config.data).count_classes(config.data.init_args)
        config.model.network = with_classes(config.model.network, num_classes)
        if config.model.mixing is not None:
            config.model.mixing = with_classes(config.model.mixing, num_classes)
        asked = config.data.init_args
        if config.model.weights is not None and asked.get("mean") is None and asked.get("std") is None:
            if (found := published_normalization(config.model.network)) is None:
                raise UserError("--model.weights: say what they were trained with, by --data.mean and --data.std")
            asked.mean, asked.std = found

    def _to_make(self) -> Namespace:
        """The config, without the file of weights where a checkpoint brings newer ones."""
        config: Namespace = self.config.clone()
        if self.checkpoint is not None:
            config[self.config["subcommand"]].model.weights = None
        return config

    def _asked_for(self, name: str) -> Any:
        return self.config[self.subcommand].get(name)

    def _asked(self) -> str:
        """The whole config as YAML, without what belongs to this one start."""
        config = self.config[self.subcommand].clone()
        for name in ("ckpt_path", "config", "test", "threads", "trust"):
            config.pop(name, None)
        text: str = self._parser(self.subcommand).dump(config, skip_none=False)
        return text
