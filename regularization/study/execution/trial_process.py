"""What the process of a trial does: one ``fit`` into the trial's run folder."""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint

from regularization.errors import UserError
from regularization.runs import directory, distributed
from regularization.study.config import PRUNED, Trial
from regularization.study.execution.executor import End, Epoch

LOG = "log.txt"
# Seconds. A predecessor may be about to end; and a machine that died keeps its locks on a network file system for a
# lease, 90 seconds by default.
LOCK_TIMEOUT = 150.0


class Control(Protocol):
    """The trial's end of the connection to its coordinator."""

    def stop_requested(self) -> bool:
        """Whether the trial is to end after this step."""

    def report(self, epoch: Epoch) -> bool:
        """Sends the progress; returns whether to train on."""


class StopBetweenSteps(Callback):
    """Looks at the stop flag between steps and ends the run as SIGTERM does: with a checkpoint."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._signalled = False

    def on_train_batch_end(self, *_: Any) -> None:
        """Before ``LastCheckpoint``, which acts on the signal."""
        # A second signal would end the run without a checkpoint.
        if not self._signalled and self._control.stop_requested():
            self._signalled = True
            signal.raise_signal(signal.SIGTERM)

    def on_validation_batch_end(self, *_: Any) -> None:
        """Validation may take long."""
        self.on_train_batch_end()


class ReportEpochs(Checkpoint):
    """Reports each epoch after its checkpoint was written, and ends a run that is pruned.

    A ``Checkpoint`` callback, because Lightning runs those last.

    Args:
        control: The connection.
        folder: The run folder, in which a pruned run is marked.
    """

    def __init__(self, control: Control, folder: Path) -> None:
        self._control = control
        self._folder = folder
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the epoch has a score."""
        self._validated = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports where the run begins or resumes."""
        self._control.report(Epoch(trainer.current_epoch, trainer.global_step, float("nan"), started=True))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the score; a pruned run ends as if this epoch were its last."""
        # Lightning keeps the accuracy of the last validation, which may be some epochs ago.
        accuracy = float(trainer.callback_metrics["val_accuracy"]) if self._validated else float("nan")
        self._validated = False
        number = trainer.current_epoch + 1
        if not self._control.report(Epoch(number, trainer.global_step, accuracy)) and number != trainer.max_epochs:
            (self._folder / PRUNED).touch()
            trainer.should_stop = True


def run_trial(trial: Trial, control: Control, threads: int) -> End:
    """Trains the trial from its last checkpoint, holding the lock of its run folder.

    Args:
        trial: The trial.
        control: The connection to the coordinator.
        threads: CPU threads: the last bits of the results depend on them.
    """
    import torch

    # Whoever started the sweep or the cluster, by srun for instance: this process trains alone.
    distributed.forget_launcher()
    torch.set_num_threads(threads)
    try:
        with directory.exclusive_lock(trial.folder, LOCK_TIMEOUT), _output_to(trial.folder / LOG):
            # The predecessor may have finished it.
            if not trial.done:
                _fit(trial, control)
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in (130, 143)):
            return End(stopped=True)
        message = " ".join(str(error).split())
        return End(reason=message if isinstance(error, UserError) else f"{type(error).__name__}: {message}")
    return End()


def _fit(trial: Trial, control: Control) -> None:
    from regularization.callbacks.tensorboard import ignore_file_errors_in_threads
    from regularization.training.command import run_fit
    from regularization.training.memory import retain_freed_memory

    last = trial.folder / directory.CHECKPOINTS / "last.ckpt"
    # The test set is for the end of the study, and the cores are shared out already, whatever a config says.
    args = [*trial.args, "--test=null", "--threads=null", *(["--ckpt_path=last"] if last.is_file() else [])]
    retain_freed_memory()
    ignore_file_errors_in_threads()
    run_fit(args, trial.folder, callbacks=[StopBetweenSteps(control), ReportEpochs(control, trial.folder)])


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Sends what the run prints to a file, also what libraries write past Python."""
    saved = [os.dup(1), os.dup(2)]
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    except BaseException as error:
        if isinstance(error, UserError | SystemExit):
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor, original in enumerate(saved, start=1):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(log)
