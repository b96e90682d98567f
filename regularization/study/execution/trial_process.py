"""What the process of a trial does: one ``fit`` into the trial's run folder."""

import os
import sys
import traceback
from pathlib import Path

from regularization.errors import UserError
from regularization.runs import directory, distributed, run_lock
from regularization.study.config import Trial
from regularization.study.execution.executor import End
from regularization.study.execution.trial_callbacks import Control, ReportEpochs, StopBetweenSteps

LOG = "log.txt"
# Seconds. A predecessor may be about to end; and a machine that died keeps its locks on a network file system for a
# lease, 90 seconds by default.
LOCK_TIMEOUT = 150.0


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
        with run_lock.exclusive_run(trial.folder, LOCK_TIMEOUT, required=True):
            _redirect_output(trial.folder / LOG)
            directory.remove_temporary_files(trial.folder)
            # The predecessor may have finished it.
            if not trial.done:
                _fit(trial, control)
        return End()
    except UserError as error:
        return _failed(" ".join(str(error).split()), f"error: {error}")
    except Exception as error:
        return _failed(" ".join(f"{type(error).__name__}: {error}".split()), traceback.format_exc())
    except (KeyboardInterrupt, SystemExit) as error:
        code = getattr(error, "code", 130)
        return End(stopped=True) if code in (130, 143) else _failed(f"exit code {code}", "")


def _failed(reason: str, details: str) -> End:
    print(details, file=sys.stderr, flush=True)
    return End(reason=reason)


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


def _redirect_output(path: Path) -> None:
    """Sends what the process prints to a file, also what libraries write past Python."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
