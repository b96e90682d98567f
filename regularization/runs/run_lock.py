"""The lock of a run folder: one process at a time writes a run."""

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from regularization.runs import directory, distributed

# File that names the process holding the lock. It is separate from the lock file, which another process may truncate
# when it tries to acquire the lock.
OWNER = ".owner"
# Seconds to wait for the lock: a process that was interrupted may be about to end.
PATIENCE = 1.0


@contextmanager
def exclusive_run(folder: Path, seconds: float = PATIENCE, required: bool = False) -> Iterator[None]:
    """Keeps other processes from writing into a run folder; if a run has several processes, the first one locks it.

    Args:
        folder: The run folder.
        seconds: How long to wait for another process.
        required: Whether to raise an error, not only a warning, if the file system does not support locks.

    Raises:
        AlreadyLocked: When another process writes there; the message names it.
        OSError: When the folder cannot be locked, if that is ``required``.
    """
    with ExitStack() as stack:
        if distributed.is_first_rank():
            try:
                stack.enter_context(directory.exclusive_lock(folder, seconds))
            except directory.AlreadyLocked:
                raise directory.AlreadyLocked(
                    f"{_owner(folder)} is writing the run {folder}: wait until it ends, or stop it"
                ) from None
            except OSError as error:
                if required:
                    raise
                warnings.warn(
                    f"cannot lock {folder} ({error.strerror}): do not start a second command that continues this run",
                    stacklevel=2,
                )
            stack.enter_context(_owner_file(folder / OWNER))
        yield


@contextmanager
def _owner_file(path: Path) -> Iterator[None]:
    """Keeps the name of this process in a file. It is only used in a message, so failing to write it is ignored."""
    with suppress(OSError):
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()


def _owner(folder: Path) -> str:
    with suppress(OSError):
        return (folder / OWNER).read_text(encoding="utf-8") or "another process"
    return "another process"
