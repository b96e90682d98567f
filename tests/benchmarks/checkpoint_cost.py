"""What a checkpoint in mid-epoch costs: ``python -m tests.benchmarks.checkpoint_cost --data.root FOLDER``.

Trains the network of ``configs/seed.yaml`` for a few steps, writes checkpoints between them, and compares the time of
one checkpoint with the ten minutes between two, and its size with that of the weights and the optimizer state.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.cli import main as cli

MINUTES = 10
TIMES = 7


class Measure(Callback):
    """Writes checkpoints after the third step and keeps the seconds that each took."""

    seconds: list[float]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 3:
            Measure.seconds = [written(trainer) for place in range(TIMES)]


def written(trainer: Trainer) -> float:
    """The seconds of one checkpoint."""
    start = time.perf_counter()
    trainer.save_checkpoint(Path("checkpoint.ckpt"))
    return time.perf_counter() - start


def main(args: list[str]) -> None:
    """Prints seconds, share and size."""
    config = Path(__file__).parents[2] / "configs" / "seed.yaml"
    short = ["--trainer.max_steps", "4", "--trainer.limit_val_batches", "1", "--callbacks.m", f"{__name__}.Measure"]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        root = ["--trainer.default_root_dir", folder]
        cli.main(["fit", "--config", str(config), *short, *root, *args])
    path = Path("checkpoint.ckpt")
    size = path.stat().st_size
    held = torch.load(path, weights_only=True)
    tensors = [*held["state_dict"].values()]
    tensors += [value for state in held["optimizer_states"][0]["state"].values() for value in state.values()]
    needed = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
    path.unlink()
    seconds = statistics.median(Measure.seconds)
    print(f"{seconds:.3f} s, {seconds / (60 * MINUTES):.3%} of the {MINUTES} minutes between two ({Measure.seconds})")
    print(f"{size:,} bytes: {needed:,} of weights and optimizer, {size - needed:,} of everything else")


if __name__ == "__main__":
    main(sys.argv[1:])
