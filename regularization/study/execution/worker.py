"""A worker: a process that lives on for many trials and runs each as ``fit`` would, into its own folder."""

import contextlib
import gc
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, Protocol

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from regularization.errors import UserError
from regularization.runs import directory, distributed
from regularization.study.config import PRUNED, Trial

LOG = "log.txt"
# Seconds. Who was at work in a trial's folder may still be about to end; and a machine that died keeps its locks on a
# network's file system for a lease, 90 seconds by default.
LEASE = 150.0


class Duplex(Protocol):
    """The line to the coordinator: a ``Connection``, or what has its two methods."""

    def send(self, message: Any, /) -> None: ...  # noqa: D102 - said above
    def recv(self) -> Any: ...  # noqa: D102


class Report(Checkpoint):
    """Tells the coordinator of each epoch, after it was kept, and stops the run when told so.

    A ``Checkpoint`` callback, because Lightning runs those last.

    Args:
        connection: To the coordinator; messages are ``("epoch", epoch, epochs, val_accuracy)``.
        waits: Whether the coordinator answers each with whether to go on.
        folder: The run folder, where a run that was stopped early is marked.
    """

    def __init__(self, connection: Duplex, waits: bool, folder: Path) -> None:
        self._connection = connection
        self._waits = waits
        self._folder = folder
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the epoch has a score."""
        self._validated = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells where the run begins, or goes on."""
        self._connection.send(("start", trainer.global_step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tells the score; a run that is not worth going on with ends as if this epoch were its last."""
        # Lightning keeps the accuracy of the last validation, which may be some epochs ago.
        accuracy = float(trainer.callback_metrics["val_accuracy"]) if self._validated else float("nan")
        self._validated = False
        epochs = trainer.max_epochs or 0
        self._connection.send(("epoch", trainer.current_epoch, epochs, trainer.global_step, accuracy))
        if self._waits and trainer.current_epoch + 1 < epochs and not self._connection.recv():
            (self._folder / PRUNED).touch()
            trainer.should_stop = True


def work(connection: Duplex, threads: int, device: int | None = None) -> None:
    """Runs the trials that come, until None does; answers each with ``("end", reason or None)`` or ``("busy", where)``.

    Args:
        connection: To the coordinator.
        threads: CPU threads of a trial: the last bits of its results depend on them.
        device: The one GPU to use, or None.
    """
    if device is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[device] if visible[0] else str(device)
    # Whoever started the cluster or the sweep, by srun for instance: a trial is trained by its worker alone.
    distributed.forget_launcher()
    # Ctrl-C on the terminal is for the coordinator, which hands it on.
    os.setpgrp()
    _die_with_parent()
    import torch

    torch.set_num_threads(threads)
    while (task := connection.recv()) is not None:
        trial, waits = task
        try:
            with directory.exclusive_lock(trial.folder, LEASE), _logging(trial.folder):
                # Who was there before may have come to its end.
                if not trial.done:
                    execute(trial, connection, waits)
            connection.send(("end", None))
        except directory.AlreadyLocked as busy:
            connection.send(("busy", str(busy)))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and error.code in (130, 143)):
                # The whole study was asked to stop.
                connection.send(("stopped",))
                return
            connection.send(("end", _reason(error)))
        # Trainer, network and data hold each other: Python would free them, and 150 MB of CIFAR, some trials later.
        gc.collect()


def execute(trial: Trial, connection: Duplex, waits: bool) -> None:
    """Trains the trial from where it is; what goes wrong is raised.

    Raises:
        UserError: When its config can't be run, or its training fails.
    """
    from regularization.training.command import run_fit
    from regularization.training.memory import retain_freed_memory

    last = trial.folder / directory.CHECKPOINTS / "last.ckpt"
    # The test set is for the study's end, and the cores are shared out already, whatever a config says.
    retain_freed_memory()
    args = [*trial.args[1:], "--test=null", "--threads=null", *(["--ckpt_path=last"] if last.is_file() else [])]
    run_fit(args, trial.folder, callbacks=[Report(connection, waits, trial.folder)])


@contextlib.contextmanager
def _logging(folder: Path) -> Iterator[None]:
    """What the run would print goes to its own file, also what libraries write past Python."""
    kept = [os.dup(1), os.dup(2)]
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield
    except BaseException as error:
        if not isinstance(error, UserError | SystemExit):
            traceback.print_exc()
        else:
            print(f"error: {error}", file=sys.stderr)
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, former in enumerate(kept, start=1):
            os.dup2(former, number)
            os.close(former)
        os.close(log)


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return said if isinstance(error, UserError) else f"{type(error).__name__}: {said}"


def _die_with_parent() -> None:
    """A coordinator that was killed must not leave a worker that writes into the folders of its successor."""

    def watch() -> None:
        parent: Any = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
