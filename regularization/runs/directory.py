"""The run folder ``<root>/<config name>/version_N/``: creation, lookup, locking, and atomic writes of its files."""

import csv
import json
import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from regularization.errors import UserError

CONFIG = "config.yaml"
METRICS = "metrics.csv"
CURVES = "curves.png"
RESULT = "result.json"
LOGITS = "val_logits.npz"
CHECKPOINTS = "checkpoints"
TEST = "test"
VALIDATION = "validation"
LOCK = ".lock"
_TEMPORARY = ".new"  # in the names of temporary files


class AlreadyLocked(UserError):  # noqa: N818
    """Another process has locked a folder."""


def run_name(configs: Sequence[Path]) -> str:
    """The name of the runs with these config files: the stems of the files, joined by ``+``.

    For the ``config.yaml`` in a run folder, it is the name of that run; for another one, the name of its folder.
    """
    stems = [_folder_name(path.resolve().parent) if path.name == CONFIG else path.stem for path in configs]
    return "+".join(dict.fromkeys(stem for stem in stems if stem)) or "default"


def _folder_name(folder: Path) -> str:
    is_run = re.fullmatch(r"(version|seed)_\d+", folder.name)
    return folder.parent.name if is_run else folder.name


def create_run_dir(root: Path, name: str) -> Path:
    """Creates the next free ``root/name/version_N``; two processes never get the same folder.

    Raises:
        UserError: When the folder cannot be created.
    """
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
        number = max((version for version, _ in _versions(root, name)), default=-1) + 1
        while True:
            try:
                folder = root / name / f"version_{number}"
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise UserError(
            f"cannot create a run folder in {root / name}: {error.strerror}. "
            "Give a writable folder with --trainer.default_root_dir."
        ) from error


def created_folder(path: Path) -> Path:
    """Creates the folder that ``--output`` names, if it does not exist; ``~`` stands for the home folder.

    Raises:
        UserError: When it is a file or cannot be created.
    """
    folder = path.expanduser()
    if folder.is_file():
        raise UserError(f"--output: {folder} is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: cannot create the folder {folder}: {error.strerror}") from error
    return folder


def remove_if_empty(folder: Path) -> None:
    """Removes ``folder`` if it is empty, and then its parent and grandparent if they are empty too."""
    for path in (folder, folder.parent, folder.parent.parent):
        if path.exists() and any(path.iterdir()):
            return
        if path.exists():
            path.rmdir()


def latest_with(root: Path, name: str, checkpoint: str, writes: bool = False) -> Path:
    """The newest run folder of ``name`` that contains a ``checkpoint`` with this file name.

    Warns if a newer run has begun but has no checkpoint yet.

    Args:
        root: The folder of all runs.
        name: The name of the run.
        checkpoint: The file name of the checkpoint.
        writes: Whether the run will be changed, so that it must be clear which one is meant.

    Raises:
        UserError: When there is none, or a newer run has no checkpoint and the run will be changed.
    """
    skipped = None
    for _, folder in sorted(_versions(root, name), reverse=True):
        if (folder / CHECKPOINTS / checkpoint).is_file():
            if skipped is not None and writes:
                raise UserError(
                    f"{skipped} is the newest run, but has no {checkpoint} yet. To start it again, leave out "
                    f"--ckpt_path;\nto continue the run before it: --ckpt_path {folder / CHECKPOINTS / checkpoint}"
                )
            if skipped is not None:
                warnings.warn(f"{skipped} has no {checkpoint} yet, so this uses {folder}", stacklevel=2)
            return folder
        if skipped is None and (folder / CONFIG).is_file():
            skipped = folder
    raise UserError(
        f"--ckpt_path {Path(checkpoint).stem}: no run in {root / name} has a checkpoint to continue from. "
        "To start a new run, leave out --ckpt_path."
    )


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that contains ``checkpoint``, or None if it is elsewhere."""
    folder = checkpoint.parent.parent
    return folder if checkpoint.parent.name == CHECKPOINTS and (folder / CONFIG).is_file() else None


def add_result(folder: Path, values: dict[str, Any]) -> None:
    """Adds ``values`` to the run's ``result.json``; other keys in it stay."""
    write_text(folder / RESULT, json.dumps({**read_result(folder), **values}, indent=2) + "\n")


def read_result(folder: Path) -> dict[str, Any]:
    """The content of the run's ``result.json``; an empty dict if it is missing or damaged."""
    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_text(path: Path, text: str) -> None:
    """Replaces the content of the file at ``path`` by ``text``; see ``atomic_write``."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Replaces the content of the file at ``path`` by a table with a header; see ``atomic_write``.

    A string that a spreadsheet would interpret as a formula, such as ``=1+1``, is prefixed with an apostrophe.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_without_formula(value) for value in row] for row in rows)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields the path of an empty temporary file; at the end it is flushed to disk and replaces ``path`` atomically.

    If the process or the machine dies, ``path`` is the complete old file or the complete new one. The temporary file
    has a unique name: two processes can write the same ``path``, and the last one to end wins. After an exception the
    temporary file is removed; ``remove_temporary_files`` removes those of processes that were killed.

    Raises:
        UserError: When the file cannot be written: no space, no permission, no folder.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{_TEMPORARY}{path.suffix}")
    try:
        # O_EXCL: neither follows a link nor opens a file that someone else has placed there.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise UserError(_cannot_write(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_temporary_files(folder: Path) -> None:
    """Removes what ``atomic_write`` left in ``folder`` and its subfolders when a process was killed.

    Call it only when no other process is writing: the caller must hold the lock of ``folder``.
    """
    for path in folder.rglob(f".*{_TEMPORARY}*"):
        with suppress(OSError):
            path.unlink()


@contextmanager
def exclusive_lock(folder: Path, seconds: float = 20.0) -> Iterator[None]:
    """Keeps other processes and threads out of ``folder`` by a lock on its file ``.lock``.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        folder: Created if it does not exist.
        seconds: How long to wait for another process, which may be about to end.

    Raises:
        AlreadyLocked: When the folder is still locked after ``seconds``.
    """
    try:
        # No fallback to a soft lock: on a file system without locks, filelock would rely on the existence of a file,
        # which a killed process leaves behind.
        lock = FileLock(folder / LOCK, timeout=seconds, fallback_to_soft=False).acquire()
    except Timeout:
        raise AlreadyLocked(f"another process is using {folder}") from None
    with lock:
        yield


def _cannot_write(path: Path, error: OSError) -> str:
    """The message for an error that occurred while the file at ``path`` was written."""
    if not path.parent.is_dir():
        return f"cannot write {path}: there is no folder {path.parent}, or it was removed"
    reason = str(error.strerror or error)
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        reason += f": {error.filename}"
    if run_of(path) is None and not (path.parent / CONFIG).is_file():
        return f"cannot write {path}: {reason}"
    return (
        f"cannot write {path}: {reason}. Files written before are intact;\n"
        "once the cause is removed, --ckpt_path last continues from the last checkpoint."
    )


def _without_formula(value: Any) -> Any:
    """``value``; a string that begins like a formula and is not a number is prefixed with an apostrophe."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def _flush(path: Path) -> None:
    """Makes the system write a file, or the list of files of a folder, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions(root: Path, name: str) -> list[tuple[int, Path]]:
    """The run folders of ``name`` with their numbers."""
    folders = (root / name).glob("version_*")
    numbered = [(folder.name.removeprefix("version_"), folder) for folder in folders]
    return [(int(number), folder) for number, folder in numbered if number.isdigit()]
