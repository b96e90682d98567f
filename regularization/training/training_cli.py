"""TrainingCLI: from a command line to the data, the model and the trainer of a run."""

import math
import os
import re
import secrets
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from regularization.data.image_data import ImageData
from regularization.data.sampling import check_divisible
from regularization.errors import UserError, find_foreign_error, find_user_error, printable, translate_error
from regularization.internals.jsonargparse import no_config_files
from regularization.models.classifier import ImageClassifier
from regularization.models.network_check import check_model_name
from regularization.models.objective import DEFAULT, Objective
from regularization.models.pretrained import published_normalization
from regularization.optim import hyperparameters
from regularization.runs import checkpoint_config, checkpoint_io, directory, distributed, safe_loading
from regularization.training import arguments
from regularization.training.configs import Config, load_yaml, merge_configs, read_config, split_args, to_text
from regularization.training.inherited_options import inherited_weight_decay, set_num_classes, with_monitors
from regularization.training.trainer_options import check_before_trainer, check_trainer_options, for_scoring

# Options of a single invocation, which config.yaml does not contain.
_INVOCATION_OPTIONS = ("ckpt_path", "config", "hours", "preprocess", "test", "threads", "trust")
# Prefix that jsonargparse 4.53 writes before a name if the option's type also allows a function, and before a device.
_NOT_SERIALIZED = "Unable to serialize instance "


class TrainingCLI(LightningCLI):
    """Parses the options of a command and creates its data and model. It trains nothing and writes nothing.

    The sources of an option are, from lowest to highest priority: the program's default, the checkpoint, the config
    files in their order, the command line.

    Args:
        command: ``fit``, ``validate`` or ``test``.
        args: The options of the command.
        run_dir: The run folder, if it is known.

    Attributes:
        config: All options, parsed.
        datamodule: The data.
        model: The ImageClassifier.
        checkpoint: The file to continue from or to score, or None.
        restored: The content of the checkpoint.
        run_dir: The run folder, or None.
        run_name: The name that the configs give to their runs.
        warnings: Messages about settings that may not be intended.

    Raises:
        UserError: When the options can't be used.
    """

    def __init__(self, command: str, args: Sequence[str], run_dir: Path | None = None) -> None:
        self.command = command
        self.run_dir = run_dir
        self.checkpoint: Path | None = None
        self.restored: dict[str, Any] = {}
        with ExitStack() as self._import_guard:
            # Values in the configs and on the command line are taken literally, even if there are files of that name.
            self._import_guard.enter_context(no_config_files())
            super().__init__(
                ImageClassifier,
                ImageData,
                subclass_mode_data=True,
                parser_class=arguments.TrainingParser,
                parser_kwargs={"usage": arguments.usage(command), "description": arguments.DESCRIPTIONS[command]},
                save_config_callback=None,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                run=False,
                args=list(args),
            )

    @property
    def is_debug_run(self) -> bool:
        """Whether the run only checks the config on a few batches."""
        return bool(self.config.trainer.fast_dev_run)

    def leave_nothing(self, root: Path) -> None:
        """Lets a debug run write to ``root`` in place of a run folder.

        Raises:
            UserError: When a study has provided the run folder: it would wait for the result.
        """
        if self.run_dir is not None and self.checkpoint is None:
            raise UserError("--trainer.fast_dev_run keeps nothing, so a study cannot use it: use --dry_run")
        self.run_dir = None
        self.config_init.trainer.default_root_dir = str(root)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of a single invocation, and the seed."""
        arguments.add_run_arguments(parser)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds all other options."""
        arguments.add_experiment_arguments(parser, self.command)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the merged configs and the command line, again on top of the checkpoint's config if there is one."""
        assert isinstance(args, list)
        paths, options = split_args(args)
        configs = [read_config(path) for path in paths]
        self.run_name = directory.run_name(paths)
        self.config = _parse(parser, configs, options)
        if self.config.ckpt_path is not None:
            self._find_checkpoint(parser)
            self.config = _parse(parser, [self.restored["config"], *configs], options)
            self.config.ckpt_path = str(self.checkpoint)
        elif self.command != "fit":
            raise UserError(f"{self.command} needs a trained network: --ckpt_path best, last, a file or a run folder")
        if self.config.seed_everything is True:
            self.config.seed_everything = self._draw_seed()
        check_before_trainer(self.config)
        self.warnings = list(inherited_weight_decay(self.config.model.optimizer, paths, configs, options))

    def before_instantiate_classes(self) -> None:
        """Sets what follows from the data and the weights: the number of classes, mean and std."""
        model, data = self.config.model, self.config.data
        set_num_classes(model, data)
        check_model_name(model.network)
        if model.weights is not None and data.init_args.get("mean") is None and data.init_args.get("std") is None:
            if (normalization := published_normalization(model.network)) is None:
                raise UserError("--model.weights: give --data.mean and --data.std that the weights were trained with")
            data.init_args.mean, data.init_args.std = normalization

    def instantiate_classes(self) -> None:
        """Creates the data and the model; a value that one of the known classes rejects becomes a UserError."""
        try:
            self.config_init = self.parser.instantiate(self._instantiable_config())
        except (TypeError, ValueError) as error:
            raise (
                find_user_error(error) or find_foreign_error(error) or UserError(translate_error(str(error), []))
            ) from error
        except Exception as error:
            if self.checkpoint is None or not safe_loading.is_trusted(self.config.model.network.class_path):
                raise  # from the user's own code, or about the user's own options
            reason = printable(" ".join(f"{type(error).__name__}: {error}".split())[:200])
            message = f"the network in {self.checkpoint} cannot be created: {reason}"
            raise find_user_error(error) or UserError(message) from error
        self.datamodule, self.model = self.config_init.data, self.config_init.model
        if self.checkpoint is not None:
            checkpoint_io.check_fits(self.restored, self.model, self.checkpoint)
            if self.command == "fit":
                hyperparameters.check_continues(self.restored["settings"], self.model.optimization.hyperparameters)
                self._check_objective()

    def _check_objective(self) -> None:
        """Refuses to continue a run by another objective, because its ``best.ckpt`` is the best one by the former."""
        former = Objective.parse(self.restored["config"].get("objective", DEFAULT))
        if self.run_dir is not None and Objective.parse(self.config.objective) != former:
            raise UserError(
                f"--objective: the run that is continued keeps its best epoch by {former.metric}. Leave out "
                "--objective, or start a new run without --ckpt_path"
            )

    def instantiate_trainer(self, callbacks: Sequence[Callback] = (), **kwargs: Any) -> Trainer:
        """Creates the Trainer.

        Args:
            callbacks: Added to those of ``trainer.callbacks``.
            kwargs: Arguments of the Trainer, in place of those in the config.

        Raises:
            UserError: When Lightning rejects the options, or they can't be used with several devices.
        """
        config = {**self.config_init.trainer, **kwargs}
        configured = config.pop("callbacks") or []
        configured = configured if isinstance(configured, list) else [configured]
        check_trainer_options(config, [*configured, *callbacks])
        try:
            # Our sampler splits the batches between processes.
            ours = {**distributed.launcher_devices(), "use_distributed_sampler": False}
            trainer = Trainer(**{**config, **ours, "callbacks": [*configured, *callbacks]})
            distributed.check_strategy(trainer)
            if self.command == "fit":
                check_divisible(self.datamodule.batch_size, trainer.world_size)
            trainer.strategy.checkpoint_io = checkpoint_io.AtomicCheckpointIO()
        except (TypeError, ValueError, RuntimeError, ImportError, MisconfigurationException) as error:
            if find_foreign_error(error):
                raise
            raise UserError(f"--trainer: {' '.join(str(error).split())}") from error
        return trainer

    def resolved_yaml(self) -> str:
        """All options of the run as YAML, without those of a single invocation."""
        config = self.config.clone()
        for name in _INVOCATION_OPTIONS:
            config.pop(name, None)
        return _dump(self.parser, config)

    def _draw_seed(self) -> int:
        """A random seed, which config.yaml records; a run that is continued keeps its own.

        Raises:
            UserError: When a launcher has started several processes, which would draw different seeds.
        """
        restored = self.restored.get("config", {}).get("seed_everything", True)
        if not isinstance(restored, bool):
            return int(restored)
        if "PL_GLOBAL_SEED" in os.environ:
            # Lightning passes the seed to the processes that it starts in this variable.
            return int(os.environ["PL_GLOBAL_SEED"])
        if math.prod(distributed.launcher_devices().values()) > 1:
            raise UserError("--seed_everything: give a number, each of the processes would draw a seed of its own")
        return secrets.randbelow(2**32)

    def _find_checkpoint(self, parser: LightningArgumentParser) -> None:
        """Finds and reads the checkpoint; unless it is trusted, imports are restricted from here on."""
        root = Path(self.config.trainer.default_root_dir or ".")
        scores = self.command != "fit"

        def latest_with(file: str) -> Path:
            return self.run_dir or directory.latest_with(root, self.run_name, file, writes=not scores)

        self.checkpoint, self.restored = checkpoint_io.find(self.config.ckpt_path, latest_with, scores)
        if scores:
            checkpoint_io.check_statistics(self.restored, self.checkpoint)
            self.restored["config"] = for_scoring(self.restored["config"])
        # Early versions kept debug runs, which are continued as ordinary runs.
        if isinstance(trainer := self.restored["config"].get("trainer"), dict):
            trainer.pop("fast_dev_run", None)
        is_local = self.run_dir is not None
        self.run_dir = self.run_dir or directory.run_of(self.checkpoint)
        is_local |= self.run_dir is not None and self.run_dir.resolve().is_relative_to(root.resolve())
        self.restored["config"] = self._accepted_config(parser, is_local)

    def _accepted_config(self, parser: LightningArgumentParser, is_local: bool) -> Config:
        """The config of the checkpoint, checked unless it is trusted.

        Options of a single invocation are left out, and, unless the run is in this folder, those of another machine.
        """
        config = {name: part for name, part in self.restored["config"].items() if name in checkpoint_config.SECTIONS}
        if self.config.trust:
            accepted = _parse(parser, [config], [])
        else:
            # Until here, only the user's own configs and command line have been parsed: their classes are allowed.
            named_by_user = set(checkpoint_config.class_paths_in(self.config))
            self._import_guard.enter_context(safe_loading.restrict_imports(named_by_user))
            accepted = checkpoint_config.accept(config, lambda part: _parse(parser, [part], []), named_by_user)
        if not is_local and (names := checkpoint_config.without_places(accepted, self.config)):
            warnings.warn(
                f"{self.checkpoint} is from no run in this folder: {', '.join(names)} not taken from it", stacklevel=2
            )
        for name in _INVOCATION_OPTIONS:
            accepted.pop(name, None)
        content: Config = load_yaml(_dump(parser, accepted))
        return content

    def _instantiable_config(self) -> Namespace:
        """The config without initial weights if there is a checkpoint, and without what scoring does not use."""
        config: Namespace = self.config.clone()
        if self.checkpoint is not None:
            config.model.weights = None
        if self.command != "fit":
            config.callbacks, config.trainer.logger = {}, None
        return config


def _dump(parser: LightningArgumentParser, config: Namespace) -> str:
    """The parsed config as YAML."""
    with warnings.catch_warnings(), no_config_files():
        warnings.filterwarnings("ignore", rf"\s*{_NOT_SERIALIZED}")
        text: str = parser.dump(config, skip_none=False)
    return text.replace(_NOT_SERIALIZED, "")


def _parse(parser: LightningArgumentParser, configs: Sequence[Config], options: Sequence[str]) -> Namespace:
    """Parses the merged configs, with the command line on top of them."""
    config = with_monitors(merge_configs(configs), options)
    optimizer = (config.get("model") or {}).get("optimizer")
    if isinstance(optimizer, str) and re.fullmatch(r"[\w.]+", optimizer):
        optimizer = {"class_path": optimizer}
    if isinstance(optimizer, dict) and "class_path" in optimizer:
        # Otherwise another class would take over lr and weight_decay from the default optimizer.
        parser.set_defaults({"model.optimizer": optimizer})
    parsed = parser.parse_args([*(["--config", to_text(config)] if config else []), *options])
    for name in ("trainer.default_root_dir", "ckpt_path"):
        if isinstance(path := parsed.get(name), str):
            # Lightning expands ~ in some paths only.
            parsed[name] = os.path.expanduser(path)
    return parsed
