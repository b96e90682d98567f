"""FitRun: one training run in its run folder, from the first log line to the last."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.callbacks.default_callbacks import (
    FitCallbacks,
    complete_run,
    default_callbacks,
    last_checkpoint,
    summary,
)
from regularization.callbacks.history import wrap
from regularization.callbacks.progress_bar import ProgressBar
from regularization.callbacks.tensorboard import TensorBoard
from regularization.data.sampling import smallest_valid_batch
from regularization.errors import UserError
from regularization.internals.lightning import raised_by_lightning
from regularization.models.compilation import precision_advice
from regularization.models.objective import Objective
from regularization.runs import directory, distributed
from regularization.training import regularizers
from regularization.training.configs import load_yaml
from regularization.training.training_cli import TrainingCLI


class FitRun:
    """A run that is ready to start: its folder is created, nothing is written yet.

    Args:
        cli: The parsed options, with the data and the model.
        callbacks: Called after all others.

    Attributes:
        run_dir: The run folder.
        trainer: The Trainer that writes there.
        callbacks: Its callbacks.

    Raises:
        UserError: When the options can't be used; the folder is removed again.
    """

    def __init__(self, cli: TrainingCLI, callbacks: Sequence[Callback] = ()) -> None:
        self.cli = cli
        self._is_new = cli.run_dir is None and distributed.is_first_rank()
        root = Path(cli.config_init.trainer.default_root_dir or ".")
        # Only the first process creates the folder; the others receive its name after training.
        self.run_dir = cli.run_dir or (
            directory.create_run_dir(root, cli.run_name) if self._is_new else root / cli.run_name / "unknown"
        )
        try:
            self.callbacks = self._default_callbacks(callbacks)
            logger = cli.config_init.trainer.logger
            logger = TensorBoard(self.run_dir) if logger in (None, True) else logger
            self.trainer = cli.instantiate_trainer(self.callbacks.ordered, logger=logger)
        except UserError:
            if self._is_new:
                directory.remove_if_empty(self.run_dir)
            raise

    @property
    def started(self) -> bool:
        """Whether training has begun."""
        return self.callbacks.history.started

    def run(self) -> Path:
        """Trains and prints the outcome; returns the run folder.

        Raises:
            SystemExit: After SIGINT (exit code 130) or SIGTERM (143), or when the time limit is reached (0).
            UserError: When training fails for a reason that the user can change.
        """
        self._log_start()
        checkpoint = self.cli.config.ckpt_path
        try:
            # Checkpoints are data: no code in them is run.
            self.trainer.fit(self.cli.model, datamodule=self.cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        except (UserError, MisconfigurationException):
            self.clean_up()
            raise
        except (ValueError, ImportError) as error:
            if (mistake := self._explain(error)) is None:
                raise
            self.clean_up()
            raise mistake from error
        except RunInterrupted as interruption:
            position = f"epoch {self.trainer.current_epoch + 1}, step {self.trainer.global_step}"
            how = "" if self.cli.is_debug_run else "\ncontinue: --ckpt_path last"
            print(f"stopped by {interruption} in {position}; {self.summary()}{how}")
            # Only the first process exits with this code: if another one failed, Lightning would kill the first one.
            raise SystemExit(interruption.exit_code if self.trainer.is_global_zero else 0) from None
        except SystemExit:
            # Ctrl-C before the first step: Lightning exits with code 1.
            print("interrupted before training began")
            raise SystemExit(130) from None
        return self._finish()

    def summary(self) -> str:
        """The best epoch and the run folder; for a debug run, a note that nothing is kept."""
        return "nothing is kept of a debug run" if self.cli.is_debug_run else summary(self.callbacks.history)

    def _default_callbacks(self, last: Sequence[Callback]) -> FitCallbacks:
        config = self.cli.config_init
        resolved = self.cli.resolved_yaml()
        self.cli.model.config = load_yaml(resolved)
        bar = [] if config.trainer.enable_progress_bar is False else [ProgressBar()]
        configured = [callback for callback in config.callbacks.values() if callback is not None]
        intervals = (config.checkpoint.minutes, config.checkpoint.steps, config.hours)
        objective = Objective.parse(config.objective)
        configured = [*bar, *configured]
        return default_callbacks(self.run_dir, resolved, objective, *intervals, configured=configured, last=last)

    def _log_start(self) -> None:
        network, data, processes = self.cli.model.network, self.cli.datamodule, self.trainer.world_size
        parameters = sum(parameter.numel() for parameter in network.parameters())
        print(f"{type(network).__name__} with {parameters:,} parameters on {self.trainer.strategy.root_device}")
        print(data.describe())
        if self.cli.model.loaded_weights is not None:
            mean, std = (data.preprocess.settings(None)[name] for name in ("mean", "std"))
            print(f"{self.cli.model.loaded_weights}; images normalized with mean {mean} and std {std}")
        if processes > 1:
            share = data.batch_size // processes
            print(f"{processes} processes: each gets {share} of the {data.batch_size} images per batch")
        if self.cli.checkpoint is None and (advice := precision_advice(self.trainer, network)):
            print(advice)
        where = "none, because of --trainer.fast_dev_run" if self.cli.is_debug_run else self.run_dir
        print(f"run folder: {where}", flush=True)
        for message in self.cli.warnings:
            warnings.warn(message, stacklevel=1)

    def _finish(self) -> Path:
        self.run_dir = Path(self.trainer.strategy.broadcast(str(self.run_dir)))
        history = self.callbacks.history
        if not self.started:
            complete_run(history, self.trainer, self.cli.model)
        if history.rows and "clean_accuracy" in history.rows[-1]:
            acted = regularizers.describe(self.cli.model.config) or "none"
            print(wrap(f"regularization: {acted}"))
            print(self.callbacks.monitor.summary(self.trainer))
        print(self.summary())
        return self.run_dir

    def clean_up(self) -> None:
        """Cleans up after a mistake of the user.

        Removes the run folder if training has not begun, otherwise prints which checkpoint is kept. If all processes
        call it, only the first one returns, so that the mistake is reported once.
        """
        if self._is_new and not self.started:
            shutil.rmtree(self.run_dir)
            directory.remove_if_empty(self.run_dir)
        elif checkpoint := last_checkpoint(self.run_dir):
            print(f"kept: {checkpoint}", flush=True)
        if self.trainer.world_size > 1 and self.callbacks.consensus.barrier() and not self.trainer.is_global_zero:
            raise SystemExit(0)

    def _explain(self, error: ValueError | ImportError) -> UserError | None:
        """The mistake behind an error of Lightning or batch norm (a batch of one image with 1×1 features), or None."""
        if raised_by_lightning(error):
            return UserError(f"--trainer: {' '.join(str(error).split())}")
        if "Expected more than 1 value per channel" not in str(error):
            return None
        data = self.cli.datamodule
        assert data.train_set is not None
        size = smallest_valid_batch(data.batch_size, len(data.train_set[1]), self.trainer.world_size)
        return UserError(f"the last batch has only one image, too few for batch norm; use --data.batch_size {size}")
