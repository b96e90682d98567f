"""TensorBoard's event files in the run folder."""

from pathlib import Path

from lightning.fabric.loggers.tensorboard import TensorBoardLogger as FabricTensorBoardLogger
from lightning.pytorch.loggers import TensorBoardLogger


class Events(TensorBoardLogger):
    """Lightning's logger without its ``hparams.yaml``, which would be an empty file beside our ``config.yaml``.

    Args:
        folder: The run folder, ``root/name/version_N``.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent.parent, folder.parent.name, folder.name)

    def save(self) -> None:
        """Writes what is buffered."""
        FabricTensorBoardLogger.save(self)
