"""``config.yaml``: the whole config of the run, to run it again."""

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.runs.directory import CONFIG, write_text


class SavedConfig(Callback):
    """Writes the config when training really starts: a start that was refused changes nothing.

    Args:
        folder: The run folder.
        text: The config, as YAML.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.text = text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After everything was set up and restored."""
        if trainer.is_global_zero:
            write_text(self.folder / CONFIG, self.text)
