"""Checkpoints: the two files a run keeps, and reading one with checks before anything relies on it."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from regularization.mistakes import Mistake

Checkpoint = dict[str, Any]


class Best(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the highest ``val_accuracy``, also when the run folder was moved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor="val_accuracy",
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score; Lightning drops it when the folder's path is not the one of before."""
        path = str(Path(str(self.dirpath)) / "best.ckpt")
        score = state_dict["best_model_score"] if Path(path).is_file() else None
        here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        super().load_state_dict(state_dict | here | {"best_k_models": {} if score is None else {path: score}})


def last(folder: Path) -> ModelCheckpoint:
    """Keeps ``last.ckpt``, written after every epoch.

    A callback of its own: ``ModelCheckpoint(save_last=True)`` writes it only in epochs that are also the best.
    """
    return ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path`` on the CPU, whole and of plain types only.

    Raises:
        Mistake: When it is missing, damaged, or not a checkpoint of a run.
    """
    if not path.is_file():
        raise Mistake(f"there is no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load does not compare the archive's checksums with its content.
            damaged = archive.testzip()
        if damaged is None:
            checkpoint: Checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Mistake(f"{path} is not a whole checkpoint: it is empty, cut short, or another kind of file") from error
    if damaged is not None:
        raise Mistake(f"{path} is damaged: the checksum of its part {damaged} is wrong")
    if not isinstance(checkpoint, dict) or not {"state_dict", "config", "settings"} <= checkpoint.keys():
        raise Mistake(f"{path} is a PyTorch file but not a checkpoint of a run of this program")
    return checkpoint


def check_fits(checkpoint: Checkpoint, model: nn.Module, path: Path) -> None:
    """Checks that the weights in ``checkpoint`` are those of ``model``.

    Raises:
        Mistake: Naming the first tensor that is missing, unknown or of another shape.
    """
    theirs = {name: tuple(tensor.shape) for name, tensor in checkpoint["state_dict"].items()}
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            there, here = theirs.get(name, "absent"), ours.get(name, "absent")
            raise Mistake(
                f"{path} is from another network: {name} is {there} there and {here} in the network asked for.\n"
                "Use the config and the data set it was trained with (config.yaml in its run folder)."
            )
