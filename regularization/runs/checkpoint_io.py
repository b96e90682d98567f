"""Checkpoint files: written in one step, read with checks before anything relies on them, found by ``last``."""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from regularization.errors import UserError
from regularization.runs import directory

Checkpoint = dict[str, Any]
BEST, LAST = "best.ckpt", "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """How the trainer writes and reads checkpoints: never a half, and never one that was damaged."""

    def save_checkpoint(self, checkpoint: Checkpoint, path: Any, storage_options: Any = None) -> None:
        """Replaces the file at ``path`` in one step."""
        with directory.atomic_write(Path(path)) as aside:
            aside.parent.mkdir(exist_ok=True)  # not its parents: a run folder that was removed is not made again
            try:
                with aside.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch's archive writer hides the reason for which the file could not be written.
                raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Checkpoint:
        """See ``read``, which ignores the other arguments: only plain types are ever read, and onto the CPU."""
        return read(Path(path))


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path`` on the CPU, whole and of plain types only.

    Raises:
        UserError: When it is missing, damaged, or not a checkpoint of a run.
    """
    if not path.is_file():
        raise UserError(f"--ckpt_path: there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load does not compare the archive's checksums with its content.
            damaged = archive.testzip()
        if damaged is None:
            checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} is not a whole checkpoint: it is empty, cut short, or another kind of file") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged: the checksum of its part {damaged} is wrong")
    if not isinstance(checkpoint, dict) or not {"state_dict", "config", "settings"} <= checkpoint.keys():
        raise UserError(f"{path} is a PyTorch file but not a checkpoint of a run of this program")
    return checkpoint


def find(asked: str, newest_with: Callable[[str], Path]) -> tuple[Path, Checkpoint]:
    """The checkpoint that ``--ckpt_path`` means, and its content.

    ``best`` and ``last`` are those of a run. When its last one is damaged, its best one is taken, which holds an epoch
    before; a warning says so.

    Args:
        asked: ``best``, ``last``, or the path of a file.
        newest_with: Gives the newest run folder that has a file of this name among its checkpoints.

    Raises:
        UserError: When there is none, or none that is whole.
    """
    if asked not in ("best", "last"):
        return Path(asked), read(Path(asked))
    folder = newest_with(f"{asked}.ckpt") / directory.CHECKPOINTS
    path = folder / f"{asked}.ckpt"
    try:
        return path, read(path)
    except UserError as mistake:
        if asked == "best" or not (folder / BEST).is_file():
            raise
        checkpoint = read(folder / BEST)
        epoch = int(checkpoint["epoch"])
        warnings.warn(f"{mistake}; going on from {folder / BEST}, written after epoch {epoch}", stacklevel=2)
        return folder / BEST, checkpoint


def check_fits(checkpoint: Checkpoint, model: nn.Module, path: Path) -> None:
    """Checks that the weights in ``checkpoint`` are those of ``model``.

    Raises:
        UserError: Naming the first tensor that is missing, unknown or of another shape.
    """
    theirs = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            there, here = theirs.get(name, "absent"), ours.get(name, "absent")
            raise UserError(
                f"{path} is from another network: {name} is {there} there and {here} in the network asked for.\n"
                "Use the config and the data set it was trained with (config.yaml in its run folder)."
            )
