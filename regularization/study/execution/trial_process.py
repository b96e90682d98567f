"""The process of a trial: runs ``fit`` in the trial's run folder and reports its epochs to Optuna."""

import os
import sys
import traceback
from pathlib import Path

import optuna
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from regularization.errors import UserError
from regularization.runs import directory, distributed, run_lock
from regularization.study import results
from regularization.study.config import FAILED, PRUNED, Trial
from regularization.study.execution.storage import ignoring_storage_errors

LOG = "log.txt"
# User attribute of an Optuna trial: the step at which it last started or resumed.
START_STEP = "start_step"
# User attribute of Optuna's study: the metric that is the value of its trials.
OBJECTIVE = "objective"
# Seconds to wait for the lock. A previous process may be about to end, and a network file system keeps the locks of a
# crashed machine until its lease expires, after 90 seconds by default.
LOCK_TIMEOUT = 150.0


def run_trial(trial: Trial, record: optuna.Trial | None, threads: int) -> None:
    """Trains the trial from its last checkpoint, holding the lock of its run folder.

    SIGINT and SIGTERM end it as they end ``fit``. If it fails, the reason is written to the run folder.

    Args:
        trial: The trial.
        record: The Optuna trial; None for a trial that is not in an Optuna study.
        threads: Number of CPU threads; the last bits of the results depend on it.
    """
    import torch

    # The sweep or the cluster may have been started by srun or torchrun, but this process trains by itself.
    distributed.forget_launcher()
    torch.set_num_threads(threads)
    try:
        with run_lock.exclusive_run(trial.folder, LOCK_TIMEOUT, required=True):
            _redirect_output(trial.folder / LOG)
            directory.remove_temporary_files(trial.folder)
            (trial.folder / FAILED).unlink(missing_ok=True)
            # A previous process may have finished the trial.
            if not trial.done:
                _fit(trial, record)
    except Exception as error:
        is_mistake = isinstance(error, UserError)
        print(f"error: {error}" if is_mistake else traceback.format_exc(), file=sys.stderr, flush=True)
        reason = " ".join(f"{'' if is_mistake else f'{type(error).__name__}: '}{error}".split())
        directory.write_text(trial.folder / FAILED, f"{reason}\n")


def _fit(trial: Trial, record: optuna.Trial | None) -> None:
    from regularization.callbacks.tensorboard import ignore_file_errors_in_threads
    from regularization.training.command import run_fit
    from regularization.training.memory import retain_freed_memory

    last = trial.folder / directory.CHECKPOINTS / "last.ckpt"
    # Overrides of the configs: the test set is for the end of the study, the cores are already assigned to the trials,
    # and trials have no time limit.
    args = [
        *trial.args,
        "--test=null",
        "--threads=null",
        "--hours=null",
        *(["--ckpt_path=last"] if last.is_file() else []),
    ]
    retain_freed_memory()
    ignore_file_errors_in_threads()
    run_fit(args, trial.folder, callbacks=[] if record is None else [ReportEpochs(record, trial.folder)])


class ReportEpochs(Checkpoint):
    """Reports each epoch to Optuna after its checkpoint was written, and ends a run that is pruned.

    It is a ``Checkpoint`` callback, because Lightning runs those last. Epochs that the storage does not accept are not
    lost: they are also in the run folder.

    Args:
        record: The Optuna trial.
        folder: The run folder, in which a pruned run is marked.
    """

    def __init__(self, record: optuna.Trial, folder: Path) -> None:
        self._record = record
        self._folder = folder
        self._pruned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the step at which the run starts or resumes, and earlier epochs; a pruned run does not continue."""
        with ignoring_storage_errors():
            self._record.set_user_attr(START_STEP, trainer.global_step)
            self._pruned = report_epochs(self._record, self._folder)
        trainer.should_stop |= (self._folder / PRUNED).is_file()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the score; a pruned run ends as if this epoch were its last."""
        with ignoring_storage_errors():
            self._pruned |= report_epochs(self._record, self._folder)
        if self._pruned and trainer.current_epoch + 1 != trainer.max_epochs:
            (self._folder / PRUNED).touch()
            trainer.should_stop = True


def report_epochs(record: optuna.Trial, folder: Path) -> bool:
    """Reports the validated epochs that Optuna does not know yet; returns whether Optuna prunes the trial at one."""
    rows = results.read_rows(folder) if (folder / directory.METRICS).is_file() else []
    metric = record.study.user_attrs[OBJECTIVE]
    known = record.study.get_trials(deepcopy=False)[record.number].last_step or 0
    pruned = False
    for row in rows:
        # Epochs without a score are skipped, because the pruner would treat a missing score as a bad one.
        if row["epoch"] >= known and metric in row:
            record.report(row[metric], int(row["epoch"]) + 1)
            pruned |= record.should_prune()
    return pruned


def _redirect_output(path: Path) -> None:
    """Redirects the output of the process to a file, including what libraries write without Python's streams."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
