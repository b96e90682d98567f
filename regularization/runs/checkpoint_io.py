"""Checkpoint files: atomic writes, checks before use, and lookup by ``best`` and ``last``."""

import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from regularization.errors import UserError
from regularization.runs import directory, safe_loading

Checkpoint = dict[str, Any]
BEST, LAST = "best.ckpt", "last.ckpt"
# Key in the state of a callback: whether the batch norm statistics do not belong to the averaged weights yet.
OUTDATED = "outdated_statistics"
_REQUIRED = {"state_dict", "config", "settings", "epoch", "global_step", "pytorch-lightning_version"}
_TYPES: dict[str, type] = {
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
    "state_dict": dict,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "config": dict,
    "settings": dict,
    "regularizer": dict,
    "train_scores": dict,
}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes the trainer's checkpoints atomically, and detects damaged files when it reads them."""

    def save_checkpoint(self, checkpoint: Checkpoint, path: Any, storage_options: Any = None) -> None:
        """Replaces the file at ``path`` in one step."""
        with suppress(OSError):
            # Creates this folder but not its parents: a run folder that was removed must not be created again.
            Path(path).parent.mkdir(exist_ok=True)
        with directory.atomic_write(Path(path)) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:
                # torch's archive writer hides why the file could not be written.
                raise error.__context__ if isinstance(error.__context__, OSError) else OSError(str(error)) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Checkpoint:
        """Calls ``read``. The other arguments have no effect: only plain types are read, and onto the CPU."""
        return read(Path(path))


def read(path: Path) -> Checkpoint:
    """Reads the checkpoint at ``path`` onto the CPU, with tensors and plain types only, in the current format.

    Raises:
        UserError: When it is missing, damaged, or not a checkpoint of a run.
    """
    if not path.is_file():
        raise UserError(f"--ckpt_path: there is no file {path}")
    try:
        check_sizes(path)
        with zipfile.ZipFile(path) as archive:
            # torch.load does not compare the archive's checksums with its content.
            damaged = archive.testzip()
        if damaged is None:
            checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is not a complete checkpoint: it is empty, cut short, or another kind of file"
        ) from error
    if damaged is not None:
        raise UserError(f"{path} is damaged: the checksum of its part {damaged} is wrong")
    _check_types(checkpoint, path)
    safe_loading.upgrade(checkpoint)
    return checkpoint


def check_sizes(path: Path) -> None:
    """Checks that the parts of a zip archive are stored uncompressed; reads only the archive's directory.

    ``torch.save`` compresses nothing. A compressed archive can be a thousand times as large in memory as on the disk.

    Raises:
        UserError: When a part is compressed, or the parts overlap.
    """
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    size = sum(part.file_size for part in parts)
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts) or size > path.stat().st_size:
        raise UserError(
            f"{path} is not a file that torch.save wrote: it is compressed, and would unpack to {size / 1e6:,.0f} MB"
        )


def _check_types(checkpoint: Any, path: Path) -> None:
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= _REQUIRED:
        raise UserError(f"{path} is a PyTorch file but not a checkpoint of a run of this program")
    for key, type_ in _TYPES.items():
        if not isinstance(checkpoint.get(key, type_()), type_):
            raise UserError(
                f"{path} is not a checkpoint of a run of this program: its {key} is not of type {type_.__name__}"
            )
    for name, tensor in checkpoint["state_dict"].items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not _is_plain(tensor):
            raise UserError(f"{path} is not a checkpoint of a run of this program: {name} is not a plain tensor")


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and in memory: not sparse, quantized or without data."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def check_finite(state: Mapping[str, Tensor], network: nn.Module, source: str) -> None:
    """Checks that the weights of a network have no NaN, and infinity at most in buffers, which may be masks.

    Args:
        state: The tensors by their names in ``network``, with the shapes that they have there.
        network: The network.
        source: The origin of the weights, for the message.

    Raises:
        UserError: When there is such a value; the message names ``source`` and the first tensor that has one.
    """
    parameters = {name for name, _ in network.named_parameters()}
    for name, tensor in state.items():
        if tensor.isnan().any() or (name in parameters and tensor.isinf().any()):
            raise UserError(f"{source}: {name} contains NaN or infinity, so that the network cannot be used")


def find(name: str, newest_with: Callable[[str], Path], prefer_best: bool = False) -> tuple[Path, Checkpoint]:
    """The path and the content of the checkpoint that ``--ckpt_path`` names.

    If a run's last checkpoint is damaged, its best one is used instead, with a warning that states its epoch.

    Args:
        name: ``best``, ``last``, the path of a file, or a run folder, which stands for its last checkpoint.
        newest_with: Returns the newest run folder that has a checkpoint with the given file name.
        prefer_best: Whether a run folder stands for its best checkpoint, if it has one.

    Raises:
        UserError: When there is no checkpoint, or only damaged ones.
    """
    if name in ("best", "last"):
        folder = newest_with(f"{name}.ckpt") / directory.CHECKPOINTS
    elif Path(name).is_dir():
        folder = folder_in(Path(name))
        name = "best" if prefer_best and (folder / BEST).is_file() else "last"
    else:
        return Path(name), read(Path(name))
    path = folder / f"{name}.ckpt"
    try:
        return path, read(path)
    except UserError as error:
        if name == "best" or not (folder / BEST).is_file():
            raise
        checkpoint = read(folder / BEST)
        epoch = int(checkpoint["epoch"]) + 1
        warnings.warn(f"{error}; continuing from {folder / BEST}, written after epoch {epoch}", stacklevel=2)
        return folder / BEST, checkpoint


def folder_in(run_dir: Path) -> Path:
    """The folder of the checkpoints of a run.

    Raises:
        UserError: When there is none.
    """
    folder = run_dir / directory.CHECKPOINTS
    if not folder.is_dir():
        raise UserError(f"--ckpt_path: {run_dir} is not a run folder: it has no folder {directory.CHECKPOINTS}")
    return folder


def check_statistics(checkpoint: Checkpoint, path: Path) -> None:
    """Checks that a checkpoint with weights averaged by SWA or LAWA can be used.

    Raises:
        UserError: When the run was stopped before the statistics of batch norm were computed for these weights.
    """
    states = checkpoint.get("callbacks", {}).values()
    has_statistics = any(name.endswith("running_mean") for name in checkpoint["state_dict"])
    if has_statistics and any(isinstance(state, dict) and state.get(OUTDATED) for state in states):
        raise UserError(
            f"{path} was written before the statistics of batch norm were computed for its averaged weights:\n"
            "continue the run, or use its best checkpoint"
        )


def check_fits(checkpoint: Checkpoint, model: nn.Module, path: Path) -> None:
    """Checks that the weights in ``checkpoint`` are those of ``model``.

    Raises:
        UserError: When a tensor is missing, unknown, of another shape, or not finite; the message names the first one.
    """
    saved = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*expected, *saved]:
        if expected.get(name) != saved.get(name):
            raise UserError(
                f"{path} is from another network: {name} is {saved.get(name, 'absent')} there and "
                f"{expected.get(name, 'absent')} in the network of this config.\n"
                "Use the config and the data set it was trained with (config.yaml in its run folder)."
            )
    check_finite(checkpoint["state_dict"], model, str(path))
