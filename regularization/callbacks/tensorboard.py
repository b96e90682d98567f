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
        UserError: When there is no room, or no folder, to write to.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent.parent, folder.parent.name, folder.name)
        self._folder = folder
        # The writer's thread hands its errors on to whoever writes next, and would print a traceback besides.
        threading.excepthook = _without_file_errors

    @property
    def experiment(self) -> Any:
        """The writer, made when it is first asked for."""
        try:
            return super().experiment
        except OSError as error:
            raise UserError(f"can't write into the run folder {self._folder}: {error.strerror or error}") from error

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Hands the metrics to the writer."""
        try:
            super().log_metrics(metrics, step)
        except (OSError, ValueError) as error:
            # Lightning blames the value that was logged for whatever went wrong.
            reason = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(reason, OSError):
                raise
            said = "it is gone" if isinstance(reason, FileNotFoundError) else reason.strerror or reason
            raise UserError(f"can't write TensorBoard's events to {self._folder}: {said}") from error

    def save(self) -> None:
        """Writes what is buffered."""
        # What can't be written now is reported by log_metrics, or by the files that matter more.
        with suppress(OSError):
            FabricTensorBoardLogger.save(self)

    def finalize(self, status: str) -> None:
        """Closes the file."""
        with suppress(OSError):
            super().finalize(status)


def _without_file_errors(args: threading.ExceptHookArgs) -> None:
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)
