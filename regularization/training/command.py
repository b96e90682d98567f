"""The commands ``fit``, ``validate`` and ``test``: run folders, resuming and plain errors."""

import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.callbacks.default_callbacks import Fitting
from regularization.callbacks.progress_bar import ProgressBar
from regularization.callbacks.tensorboard import TensorBoard
from regularization.data.datamodules import ImageData
from regularization.data.sampling import check_divisible, smallest_valid_batch
from regularization.errors import UserError, find_user_error, translate_error
from regularization.inference import evaluation
from regularization.models.classifier import ImageClassifier
from regularization.optim import hyperparameters
from regularization.runs import checkpoint_io, directory, distributed
from regularization.training.arguments import Options
from regularization.training.memory import retain_freed_memory
from regularization.training.parser import (
    Parser,
    load_yaml,
)


def fit(args: list[str]) -> None:
    """Trains a network by its config, or goes on with a run."""
    TrainingCLI(["fit", *args])


def validate(args: list[str]) -> None:
    """EpochMetrics a checkpoint on the validation images."""
    TrainingCLI(["validate", *args])


def test(args: list[str]) -> None:
    """EpochMetrics a checkpoint on the test images."""
    TrainingCLI(["test", *args])


def _about(command: Callable[[list[str]], None]) -> dict[str, Any]:
    usage = f"regularization {command.__name__} [--config FILE ...] [options]"
    return {"usage": usage, "description": command.__doc__}


class TrainingCLI(Options):
    """From what was asked to what came out: LightningCLI around ImageClassifier and any ImageData.

    Args:
        args: The command and its options.
        run: The run folder, instead of the next free one.
        callbacks: For the trainer of ``fit``, besides those of the config.
    """

    def __init__(self, args: list[str], run: Path | None = None, callbacks: Sequence[Callback] = ()) -> None:
        self.run = run
        self._args = args
        self._more_callbacks = callbacks
        self._guard = ExitStack()
        if not distributed.is_first_rank():
            distributed.silence()
        try:
            with self._guard:
                self._start(args)
        except MisconfigurationException as error:
            raise UserError(str(error)) from error
        except RuntimeError as error:
            if mistake := self._behind(error):
                raise mistake from error
            raise

    def _start(self, args: list[str]) -> None:
        super().__init__(
            ImageClassifier,
            ImageData,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={what.__name__: _about(what) for what in (fit, validate, test)},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def instantiate_classes(self) -> None:
        """Makes data, model and trainer; a value that a class of the config refuses is the user's mistake."""
        retain_freed_memory()
        if threads := self._asked_for("threads"):
            torch.set_num_threads(threads)
        try:
            with self._guard:
                self.config_init = self.parser.instantiate(self._to_make())
        except (TypeError, ValueError) as error:
            raise find_user_error(error) or UserError(translate_error(str(error), [])) from error
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Checks whatever can be checked, and only then creates the run folder and the trainer that writes there."""
        if self.checkpoint is not None:
            checkpoint_io.check_fits(self.restored, self.model, self.checkpoint)
            if self.subcommand == "fit":
                hyperparameters.check_continues(self.restored["settings"], self.model.optimization.hyperparameters)
        asked = self._get(self.config_init, "trainer")
        if self._asked_for("test") == "best" and (self.datamodule.val_size is None or asked["limit_val_batches"] == 0):
            raise UserError("without validation there is no best checkpoint: --test last")
        if distributed.is_first_rank_of_machine():
            # The others wait for it, by Lightning: nothing is downloaded twice.
            self.datamodule.prepare_data()
            self.datamodule.setup(self.subcommand)
        config = {**asked, **kwargs}
        callbacks: list[Callback] = [] if config["enable_progress_bar"] is False else [ProgressBar()]
        if self.subcommand != "fit":
            self.answers = evaluation.PredictionCollector()
            config |= {"logger": False, "enable_checkpointing": False}
            return self._trainer(config, [*callbacks, self.answers])
        self.claimed = self.run is None and distributed.is_first_rank()
        root = Path(config["default_root_dir"])
        # Only the first process writes; the others learn the folder when they know each other.
        self.run = self.run or (
            directory.create_run_dir(root, self.name) if distributed.is_first_rank() else root / self.name / "unknown"
        )
        try:
            return self._trainer_of(self.run, config, callbacks)
        except UserError:
            if self.claimed:
                directory.remove_if_empty(self.run)
            raise

    def _trainer_of(self, run: Path, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """The trainer that writes into the folder ``run``."""
        asked = self._asked()
        self.model.config = load_yaml(asked)
        self.fitting = Fitting(run, asked, self._get(self.config_init, "checkpoint"))
        named = [callback for callback in self._get(self.config_init, "callbacks").values() if callback is not None]
        logger = TensorBoard(run) if config["logger"] in (None, True) else config["logger"]
        ours = self.fitting.around([*callbacks, *named], self._more_callbacks)
        return self._trainer({**config, "logger": logger}, ours)

    def _trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        try:
            # Which images a process gets is our own order's to say.
            ours = distributed.launcher_devices() | {"use_distributed_sampler": False}
            trainer = self._instantiate_trainer(config | ours, callbacks)
            distributed.check_strategy(trainer)
            if self.subcommand == "fit":
                check_divisible(self.datamodule.batch_size, trainer.world_size)
            trainer.strategy.checkpoint_io = checkpoint_io.AtomicCheckpointIO()
            return trainer
        except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
            raise UserError(f"--trainer: {' '.join(str(error).split())}") from error

    def fit(self, **kwargs: Any) -> None:
        """Trains, and says what came out, also after Ctrl-C (exit code 130) or SIGTERM (143)."""
        assert self.run is not None
        self._announce()
        try:
            self.trainer.fit(**kwargs, **self._loaded())
        except (UserError, MisconfigurationException):
            self._give_up()
            raise
        except ValueError as error:
            if "Expected more than 1 value per channel" not in str(error):
                raise
            # A batch of one image whose features are 1×1, as a ResNet's on 32×32.
            self._give_up()
            assert self.datamodule.train_set is not None
            size = smallest_valid_batch(
                self.datamodule.batch_size, len(self.datamodule.train_set[1]), self.trainer.world_size
            )
            raise UserError(
                f"batch norm can't learn from an image alone: --data.batch_size {size} leaves none"
            ) from None
        except RunInterrupted as stopped:
            where = f"{stopped} in epoch {self.trainer.current_epoch}, step {self.trainer.global_step}"
            print(f"stopped by {where}; {self.fitting.outcome()}\ncontinue: --ckpt_path last")
            # Of several processes the first one says so: Lightning kills it when another one ends with an error.
            raise SystemExit(128 + stopped.number if self.trainer.is_global_zero else 0) from None
        except SystemExit:
            # Ctrl-C before the first step, which Lightning turns into exit code 1.
            print("interrupted before training began")
            raise SystemExit(130) from None
        self._conclude()

    def _behind(self, error: RuntimeError) -> UserError | None:
        """The plain words for an error of PyTorch's or Lightning's that is no fault of the program."""
        said = " ".join(str(error).split())
        if hasattr(self, "trainer") and distributed.is_lost_peer(error, self.trainer):
            begun = self.subcommand == "fit" and self.fitting.history.started
            what = "ended: --ckpt_path last goes on from the last checkpoint" if begun else "ended, or never came"
            return UserError(f"another of the {self.trainer.world_size} processes {what}\n({said[:200]})")
        return UserError(f"callbacks: {said}") if "Early stopping conditioned on metric" in said else None

    def _give_up(self) -> None:
        """After a mistake: takes away what holds nothing, says what is kept; of several processes one speaks."""
        assert self.run is not None
        if self.claimed and not self.fitting.history.started:
            shutil.rmtree(self.run)
            directory.remove_if_empty(self.run)
        elif kept := self.fitting.kept():
            print(kept, flush=True)
        if self.trainer.world_size > 1 and self.fitting.consensus.barrier() and not self.trainer.is_global_zero:
            raise SystemExit(0)

    def _conclude(self) -> None:
        """After the last epoch: says what came out, and tests where asked."""
        self.run = Path(self.trainer.strategy.broadcast(str(self.run)))
        if not self.fitting.history.started:
            self.fitting.finish(self.trainer, self.model)
        if self.fitting.history.rows and "clean_accuracy" in self.fitting.history.rows[-1]:
            print(self.fitting.monitor.summary(self.datamodule.num_classes))
        print(self.fitting.outcome())
        if which := self._asked_for("test"):
            kept = self.run / directory.CHECKPOINTS / f"{which}.ckpt"
            TrainingCLI(["test", *self._args[1:], f"--ckpt_path={kept}"], run=self.run)

    def validate(self, **kwargs: Any) -> None:
        """EpochMetrics the validation images."""
        if self.datamodule.val_size is None:
            raise UserError("nothing is held out to validate on: --data.val_size is null")
        self._scores(self.trainer.validate(**kwargs, **self._loaded(), verbose=False))

    def test(self, **kwargs: Any) -> None:
        """EpochMetrics the test images; how they were answered goes into the run folder."""
        scores = self._scores(self.trainer.test(**kwargs, **self._loaded(), verbose=False))
        assert self.checkpoint is not None
        if self.trainer.is_global_zero:
            evaluation.save_evaluation(self.answers.of(self.datamodule), scores, self.checkpoint, self.run)

    def _loaded(self) -> dict[str, Any]:
        """What the Trainer's methods are told of the checkpoint: data alone is loaded, no code."""
        return {"ckpt_path": self.config[self.subcommand].ckpt_path, "weights_only": True}

    def _scores(self, results: Sequence[Any]) -> dict[str, float]:
        if not results or not results[0]:
            raise UserError("nothing was scored: the trainer's limit of batches is 0")
        scores = {name: float(value) for name, value in results[0].items()}
        print(f"{self.checkpoint}: " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        return scores

    def _announce(self) -> None:
        size = sum(parameter.numel() for parameter in self.model.network.parameters())
        print(f"{type(self.model.network).__name__} with {size:,} parameters on {self.trainer.strategy.root_device}")
        print(self.datamodule.describe())
        if (world := self.trainer.world_size) > 1:
            size = self.datamodule.batch_size
            print(f"{world} processes: of each batch of {size} images every one gets {size // world}")
        print(f"run folder: {self.run}", flush=True)
        for doubt in self.doubts:
            warnings.warn(doubt, stacklevel=1)


def parser_of(command: str) -> LightningArgumentParser:
    """The parser of fit, validate or test, to look into: nothing is parsed."""

    class Unparsed(TrainingCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
            made.append(self._parser(command))
            raise UserError("the parser was all that was asked for")

    made: list[LightningArgumentParser] = []
    with suppress(UserError):
        Unparsed([command])
    return made[0]
