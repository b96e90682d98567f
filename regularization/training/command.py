"""The commands ``fit``, ``validate`` and ``test``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from regularization.callbacks.progress_bar import ProgressBar
from regularization.callbacks.tensorboard import ignore_file_errors_in_threads
from regularization.errors import UserError, printable
from regularization.inference.evaluation import PredictionCollector, save_evaluation
from regularization.runs import directory, distributed
from regularization.training.fit_run import FitRun
from regularization.training.memory import retain_freed_memory
from regularization.training.training_cli import TrainingCLI


def fit(args: list[str]) -> None:
    """Trains a network by its config, or continues a run."""
    retain_freed_memory()
    ignore_file_errors_in_threads()
    run_fit(args)


def validate(args: list[str]) -> None:
    """Scores a checkpoint on the validation images."""
    retain_freed_memory()
    run_scoring("validate", args)


def test(args: list[str]) -> None:
    """Scores a checkpoint on the test images."""
    retain_freed_memory()
    run_scoring("test", args)


def run_fit(args: Sequence[str], run_dir: Path | None = None, callbacks: Sequence[Callback] = ()) -> Path:
    """Trains as ``fit`` does.

    Args:
        args: The options of ``fit``.
        run_dir: The run folder, in place of the next free one.
        callbacks: Called after all others.

    Returns:
        The run folder.

    Raises:
        UserError: When the options can't be used, or training fails for a reason that the user can change.
        SystemExit: After SIGINT (exit code 130) or SIGTERM (143).
    """
    with _one_voice():
        cli = TrainingCLI("fit", args, run_dir)
        checkpoint = cli.config.test
        unvalidated = cli.datamodule.val_size is None or cli.config_init.trainer.limit_val_batches == 0
        if checkpoint == "best" and unvalidated:
            raise UserError("without validation there is no best checkpoint: --test last")
        _prepare(cli)
        start = _Start()
        run = FitRun(cli, [*callbacks, start])
        with _restoring(cli, start, run), _as_user_error(run.trainer, run):
            folder = run.run()
    if checkpoint is not None:
        path = folder / directory.CHECKPOINTS / f"{checkpoint}.ckpt"
        run_scoring("test", [*args, f"--ckpt_path={path}"], folder)
    return folder


def run_scoring(command: str, args: Sequence[str], run_dir: Path | None = None) -> dict[str, float]:
    """Scores a checkpoint as ``validate`` or ``test`` does; ``test`` also writes its tables and figures.

    Args:
        command: ``validate`` or ``test``.
        args: The options of the command.
        run_dir: The run folder, where the options don't tell.

    Returns:
        The metrics by name.

    Raises:
        UserError: When the options can't be used, or there is nothing to score.
    """
    with _one_voice():
        cli = TrainingCLI(command, args, run_dir)
        if command == "validate" and cli.datamodule.val_size is None:
            raise UserError("nothing is held out to validate on: --data.val_size is null")
        _prepare(cli)
        return _score(cli)


def _score(cli: TrainingCLI) -> dict[str, float]:
    collector, start = PredictionCollector(), _Start()
    bar = [] if cli.config_init.trainer.enable_progress_bar is False else [ProgressBar()]
    trainer = cli.instantiate_trainer([*bar, collector, start], logger=False, enable_checkpointing=False)
    score = trainer.validate if cli.command == "validate" else trainer.test
    with _restoring(cli, start), _as_user_error(trainer):
        results = score(
            cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True, verbose=False
        )
    if not results or not results[0]:
        raise UserError("nothing was scored: the trainer's limit of batches is 0")
    scores = {name: float(value) for name, value in results[0].items()}
    print(f"{printable(cli.checkpoint)}: " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    if cli.command == "test" and trainer.is_global_zero:
        assert cli.checkpoint is not None
        save_evaluation(collector.of(cli.datamodule), scores, cli.checkpoint, cli.run_dir)
    return scores


def _prepare(cli: TrainingCLI) -> None:
    """Sets the threads and reads the data, so that what can't be read is reported before a folder is created."""
    if cli.config.threads:
        torch.set_num_threads(cli.config.threads)
    if distributed.is_first_rank_of_machine():
        # Lightning has the other processes wait for this one: nothing is downloaded twice.
        cli.datamodule.prepare_data()
        cli.datamodule.setup(cli.command)


class _Start(Callback):
    """Notices the first batch, at which a checkpoint has been restored."""

    def __init__(self) -> None:
        self.has_happened = False

    def on_train_batch_start(self, *_: Any) -> None:
        """The first batch of ``fit``."""
        self.has_happened = True

    def on_validation_batch_start(self, *_: Any) -> None:
        """The first batch of ``validate``."""
        self.has_happened = True

    def on_test_batch_start(self, *_: Any) -> None:
        """The first batch of ``test``."""
        self.has_happened = True


@contextmanager
def _restoring(cli: TrainingCLI, start: _Start, run: FitRun | None = None) -> Iterator[None]:
    """Says in one line that the state in a checkpoint is not that of a run, whatever it makes fail.

    With ``--trust``, errors keep their traceback: they may come from the user's own code.
    """
    try:
        yield
    except (UserError, MisconfigurationException):
        raise
    except Exception as error:
        if cli.checkpoint is None or cli.config.trust or start.has_happened:
            raise
        if run is not None:
            run.clean_up()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{cli.checkpoint} cannot be continued or scored: {reason}") from error


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes only the first prints; what Lightning rejects is the user's mistake."""
    if not distributed.is_first_rank():
        distributed.silence()
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(str(error)) from error


@contextmanager
def _as_user_error(trainer: Trainer, run: FitRun | None = None) -> Iterator[None]:
    """Says in one line what PyTorch and Lightning raise where the program is not at fault."""
    try:
        yield
    except RuntimeError as error:
        message = " ".join(str(error).split())
        if distributed.is_lost_peer(error, trainer):
            can_continue = run is not None and run.started
            outcome = "; --ckpt_path last continues from the last checkpoint" if can_continue else ", or never started"
            raise UserError(
                f"another of the {trainer.world_size} processes ended{outcome}\n({message[:200]})"
            ) from error
        if "Early stopping conditioned on metric" in message:
            raise UserError(f"callbacks: {message}") from error
        raise
