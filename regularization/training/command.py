"""The commands ``fit``, ``validate`` and ``test``."""

import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import starmap, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.callbacks.progress_bar import ProgressBar
from regularization.callbacks.tensorboard import TensorBoard, ignore_file_errors_in_threads
from regularization.data.image_folder import ImageFolder
from regularization.errors import UserError, printable
from regularization.inference.evaluation import PredictionCollector, save_evaluation, save_validation
from regularization.runs import directory, distributed, run_lock
from regularization.training.arguments import check_used
from regularization.training.fit_run import FitRun
from regularization.training.memory import retain_freed_memory
from regularization.training.output import independent_of_readers
from regularization.training.training_cli import TrainingCLI


def fit(args: list[str]) -> None:
    """Trains a network by its config, or continues a run."""
    check_used("fit", args)
    retain_freed_memory()
    ignore_file_errors_in_threads()
    run_fit(args)


def validate(args: list[str]) -> None:
    """Scores a checkpoint on the validation images."""
    check_used("validate", args)
    retain_freed_memory()
    run_scoring("validate", args)


def test(args: list[str]) -> None:
    """Scores a checkpoint on the test images."""
    check_used("test", args)
    retain_freed_memory()
    run_scoring("test", args)


def run_fit(args: Sequence[str], run_dir: Path | None = None, callbacks: Sequence[Callback] = ()) -> Path:
    """Trains as ``fit`` does.

    Args:
        args: The options of ``fit``.
        run_dir: The run folder, in place of the next free one. The caller has its lock.
        callbacks: Called after all others.

    Returns:
        The run folder.

    Raises:
        UserError: When the options can't be used, or training fails for a reason that the user can change.
        SystemExit: After SIGINT (exit code 130) or SIGTERM (143).
    """
    with ExitStack() as temporary:
        with _output_of_first_rank():
            cli = TrainingCLI("fit", args, run_dir)
            checkpoint = cli.config.test
            unvalidated = cli.datamodule.val_size is None or cli.config_init.trainer.limit_val_batches == 0
            if checkpoint == "best" and unvalidated:
                raise UserError("without validation there is no best checkpoint: --test last")
            if cli.is_debug_run:
                # A debug run does everything that other runs do, but in a temporary folder.
                cli.leave_nothing(Path(temporary.enter_context(TemporaryDirectory())))
            _prepare(cli)
            folder = _train(cli, callbacks, is_trial=run_dir is not None)
        if checkpoint is not None and not cli.is_debug_run:
            path = folder / directory.CHECKPOINTS / f"{checkpoint}.ckpt"
            run_scoring("test", [*args, f"--ckpt_path={path}"], folder)
        return folder


def _train(cli: TrainingCLI, callbacks: Sequence[Callback], is_trial: bool) -> Path:
    """Trains while holding the lock of the run folder; for a trial, the study already holds it."""
    start = _StartDetector()
    run = FitRun(cli, [*callbacks, start])
    lock = nullcontext() if is_trial else run_lock.exclusive_run(run.run_dir)
    with lock, _restoring(cli, start, run), _as_user_error(run.trainer, run):
        folder = run.run()
    # Trials are shown on the page of their study.
    if not is_trial and not cli.is_debug_run and run.trainer.is_global_zero:
        page = save_validation(cli.datamodule, folder) if isinstance(cli.datamodule, ImageFolder) else None
        print("\n".join(_commands_to_show(run, folder, page)), flush=True)
    return folder


def _commands_to_show(run: FitRun, folder: Path, page: Path | None) -> list[str]:
    """Lines that tell how to view a run: TensorBoard's command, and the page of the run or the command for a report."""
    lines = []
    if isinstance(run.trainer.logger, TensorBoard):
        lines.append(f"in TensorBoard: tensorboard --logdir {shlex.quote(str(folder))}")
    compare = f"compare runs: python -m regularization report {shlex.quote(str(folder.parent))}"
    return [*lines, compare if page is None else f"on one page: {printable(page)}"]


def run_scoring(command: str, args: Sequence[str], run_dir: Path | None = None) -> dict[str, float]:
    """Scores a checkpoint as ``validate`` or ``test`` does; ``test`` also writes its tables and figures.

    Args:
        command: ``validate`` or ``test``.
        args: The options of the command.
        run_dir: The run folder, if the options don't determine it.

    Returns:
        The metrics by name.

    Raises:
        UserError: When the options can't be used, or there is nothing to score.
        SystemExit: After SIGINT (exit code 130) or SIGTERM (143).
    """
    with _output_of_first_rank():
        cli = TrainingCLI(command, args, run_dir)
        if command == "validate" and cli.datamodule.val_size is None:
            raise UserError("nothing is held out to validate on: --data.val_size is null")
        _prepare(cli)
        if cli.config.preprocess == "checkpoint":
            _check_preprocessing(cli)
        return _score(cli)


def _score(cli: TrainingCLI) -> dict[str, float]:
    collector, start = PredictionCollector(), _StartDetector()
    bar = [] if cli.config_init.trainer.enable_progress_bar is False else [ProgressBar()]
    trainer = cli.instantiate_trainer([*bar, collector, start], logger=False, enable_checkpointing=False)
    score = trainer.validate if cli.command == "validate" else trainer.test
    with _restoring(cli, start), _as_user_error(trainer), _stopped_by_signals(cli.command):
        results = score(
            cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True, verbose=False
        )
    if not results or not results[0]:
        raise UserError("nothing was scored: the trainer's limit of batches is 0")
    scores = {name: float(value) for name, value in results[0].items()}
    print(f"{printable(cli.checkpoint)}: " + "  ".join(starmap(_format_score, scores.items())))
    if cli.command == "test" and trainer.is_global_zero:
        assert cli.checkpoint is not None
        save_evaluation(collector.of(cli.datamodule), scores, cli.checkpoint, cli.run_dir)
    return scores


def _format_score(name: str, value: float) -> str:
    return f"{name} {value:.2%}" if name.endswith("accuracy") else f"{name} {value:.4f}"


def _check_preprocessing(cli: TrainingCLI) -> None:
    """Checks that the preprocessing and the classes of the data are those that the network was trained with.

    Raises:
        UserError: When the size of the images, mean, std, or the classes differ.
    """
    trained = cli.restored.get("serving")
    if trained is None or not distributed.is_first_rank_of_machine():
        return
    given = cli.datamodule.inference_config()
    options = {"size": "image_size", "resize": "resize", "mean": "mean", "std": "std"}
    pairs = [(f"--data.{options[key]}", given["preprocess"][key], trained["preprocess"][key]) for key in options]
    pairs += [("the classes of the data", given["classes"], trained["classes"])]
    for what, value, expected in pairs:
        if value != expected:
            if what == "the classes of the data":
                value, expected = next(pair for pair in zip_longest(value, expected) if pair[0] != pair[1])
            raise UserError(
                f"{what}: {value} here, but the network was trained with {expected}. To score what was trained, leave "
                "this option out of\nthe command and its configs, or give that value; --preprocess config scores it "
                "as the config says"
            )


def _prepare(cli: TrainingCLI) -> None:
    """Sets the threads and reads the data, so that what can't be read is reported before a folder is created."""
    if cli.config.threads:
        torch.set_num_threads(cli.config.threads)
    if distributed.is_first_rank_of_machine():
        # Lightning has the other processes wait for this one: nothing is downloaded twice.
        cli.datamodule.prepare_data()
        cli.datamodule.setup(cli.command)


class _StartDetector(Callback):
    """Records that the first batch has started; a checkpoint has been restored by then."""

    def __init__(self) -> None:
        self.has_happened = False

    def on_train_batch_start(self, *_: Any) -> None:
        """Called at the start of a batch of ``fit``."""
        self.has_happened = True

    def on_validation_batch_start(self, *_: Any) -> None:
        """Called at the start of a batch of ``validate``."""
        self.has_happened = True

    def on_test_batch_start(self, *_: Any) -> None:
        """Called at the start of a batch of ``test``."""
        self.has_happened = True


@contextmanager
def _restoring(cli: TrainingCLI, start: _StartDetector, run: FitRun | None = None) -> Iterator[None]:
    """Turns errors while a checkpoint is restored into a one-line UserError: its state is not that of a run.

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
def _output_of_first_rank() -> Iterator[None]:
    """Lets only the first process print, even to a closed pipe; turns MisconfigurationException into a UserError."""
    if not distributed.is_first_rank():
        distributed.silence()
    try:
        with independent_of_readers():
            yield
    except MisconfigurationException as error:
        raise UserError(str(error)) from error


@contextmanager
def _as_user_error(trainer: Trainer, run: FitRun | None = None) -> Iterator[None]:
    """Turns RuntimeErrors that are not the program's fault, such as a lost process, into one-line UserErrors."""
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


@contextmanager
def _stopped_by_signals(command: str) -> Iterator[None]:
    """Ends the process after SIGINT and SIGTERM; Lightning would exit with 1 after the first, and ignore the second."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    except RunInterrupted as interruption:
        print(f"{command} was stopped by {interruption}: nothing was written")
        raise SystemExit(128 + interruption.number) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, *_: Any) -> None:
    raise RunInterrupted(number)
