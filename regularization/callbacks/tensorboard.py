"""TensorBoard's event files in the run folder."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.loggers import TensorBoardLogger

from regularization.errors import UserError


class TensorBoard(TensorBoardLogger):
    """Lightning's logger without its ``hparams.yaml``, which would be an empty file beside our ``config.yaml``.

    Args:
        folder: The run folder, ``root/name/version_N``.

    Raises:
        UserError: When the files can't be written, for instance because the disk is full or the folder was removed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent.parent, folder.parent.name, folder.name)
        self._folder = folder

    @property
    def experiment(self) -> Any:
        """The writer, which is created on first use."""
        try:
            return super().experiment
        except OSError as error:
            raise UserError(f"can't write to the run folder {self._folder}: {error.strerror or error}") from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Passes the metrics to the writer."""
        try:
            super().log_metrics(metrics, step)
        except (OSError, ValueError) as error:
            # Whatever goes wrong, Lightning raises a ValueError about the value that was logged.
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            reason = "the folder is gone" if isinstance(cause, FileNotFoundError) else cause.strerror or cause
            raise UserError(f"can't write TensorBoard's event file to {self._folder}: {reason}") from error

    def save(self) -> None:
        """Writes what is buffered."""
        # An error appears again in log_metrics, or when one of the more important files is written.
        with suppress(OSError):
            FabricTensorBoardLogger.save(self)

    def finalize(self, status: str) -> None:
        """Closes the file."""
        with suppress(OSError):
            super().finalize(status)


def ignore_file_errors_in_threads() -> None:
    """Keeps the writer's thread from printing a traceback when it can't write, for the whole process.

    The thread passes the error on to the next call that logs something, where ``TensorBoard`` turns it into a
    ``UserError``. To be called once by the command line; in a program that imports this package, it would hide the
    errors of other threads as well.
    """
    threading.excepthook = _print_unless_file_error


def _print_unless_file_error(args: threading.ExceptHookArgs) -> None:
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)
