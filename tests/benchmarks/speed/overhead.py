"""The part ``overhead``: the cost of our step beyond Lightning's own, in ms, with a network of negligible cost.

The network is a linear layer on the digits, trained by SGD with 16 images of 8×8 per batch. Bare: a LightningModule of
ten lines in ``Trainer(barebones=True)`` with the same data module; the cost of the data module itself is in the part
``path``. Ours: ``fit`` with all callbacks, metrics, logger, checkpoints and the progress bar. The bar is really drawn:
the process has a pseudo-terminal for stdout, which is read without delay. Steps are timed from step 50 to the last one
of an epoch; the end of the epoch is timed separately.
"""

import statistics
import time
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional

from regularization import Digits
from regularization.cli.console import configure_logging
from regularization.data.readers import Images
from regularization.training.command import run_fit
from tests.benchmarks.speed.fits import options
from tests.benchmarks.speed.loops import now
from tests.benchmarks.speed.process import elsewhere, on_terminal
from tests.benchmarks.speed.rounds import alternately
from tests.benchmarks.speed.rows import Row, Target, median
from tests.benchmarks.speed.settings import Settings

WARM = 50
BATCH = 16
Taken = dict[str, float]


class Linear(nn.Module):
    """One linear layer on images of 8×8."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.layer(images.flatten(1))
        return logits


class ManyDigits(Digits):
    """The digits 27 times over, so that an epoch is 2,182 steps long."""

    def read(self, train: bool) -> Images:
        """38,799 training images, or the test images."""
        images = super().read(train)
        times = 27 if train else 1
        return Images(images.pixels.repeat(times, 1, 1, 1), images.labels.repeat(times), images.classes)


class Bare(LightningModule):
    """The least that Lightning needs."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Linear()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with our defaults."""
        return torch.optim.SGD(self.parameters(), lr=0.01, weight_decay=1e-4)


class Times(Callback):
    """Measures the ms of a step in each epoch, and the ms between two epochs."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.ends: list[float] = []
        self._started = self._ended = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The first step of an epoch ends the time between two epochs."""
        if batch_idx == 0 and self._ended:
            self.ends.append(1000 * (time.perf_counter() - self._ended))
        if batch_idx == WARM:
            self._started = now(trainer.strategy.root_device.type)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """The last step of an epoch."""
        last = int(trainer.num_training_batches) - 1
        if args[-1] == last:
            self._ended = now(trainer.strategy.root_device.type)
            self.steps.append(1000 * (self._ended - self._started) / (last + 1 - WARM))

    def taken(self) -> Taken:
        """The ms of a step and of the end of an epoch."""
        return {"step": statistics.median(self.steps), "end": statistics.median(self.ends)}


def bare(steps: int, accelerator: str) -> Taken:
    """ms of Lightning's bare loop over two epochs of ``steps`` steps."""
    configure_logging()
    times = Times()
    how: dict[str, Any] = {"accelerator": accelerator, "limit_train_batches": steps, "use_distributed_sampler": False}
    trainer = Trainer(devices=1, max_epochs=2, barebones=True, callbacks=[times], **how)
    trainer.fit(Bare(), ManyDigits(batch_size=BATCH, val_size=None))
    return times.taken()


def ours(steps: int, accelerator: str) -> Taken:
    """ms of ``fit`` over two epochs of ``steps`` steps."""
    configure_logging()
    times = Times()
    here = {"model.network": f"{__name__}.Linear", "data": f"{__name__}.ManyDigits", "data.batch_size": BATCH}
    limits = {"trainer.max_epochs": 2, "trainer.limit_train_batches": steps, "trainer.accelerator": accelerator}
    with TemporaryDirectory() as folder:
        args = options({**here, **limits, "trainer.default_root_dir": folder})
        run_fit([*args], callbacks=[times])
    return times.taken()


def measure(settings: Settings) -> list[Row]:
    """A step of each, the difference, and an epoch's end."""
    how = (settings.size(2182, 150), settings.accelerator[-1])
    ends: dict[str, list[float]] = {"bare": [], "ours": []}
    bars = []

    def bare_step() -> float:
        taken = elsewhere(bare, *how)
        ends["bare"].append(taken["end"])
        return taken["step"]

    def our_step() -> float:
        taken, drawn = on_terminal(ours, *how)
        ends["ours"].append(taken["end"])
        bars.append(drawn.count("it/s"))
        return taken["step"]

    steps = alternately(settings.rounds, {"bare": bare_step, "ours": our_step})
    return _rows(steps, ends, f"the progress bar was drawn {statistics.median(bars):.0f} times a run")


def _rows(steps: dict[str, list[float]], ends: dict[str, list[float]], note: str) -> list[Row]:
    more = [our - their for our, their in zip(steps["ours"], steps["bare"], strict=True)]
    loop = "Lightning's bare loop"
    epoch = "validation, clean training images, metrics.csv, curves, checkpoints"
    return [
        median("a step of ours", steps["ours"], "ms", loop, steps["bare"], note=note),
        median("a step of ours, beyond bare", more, "ms", target=Target(0.25, most=True)),
        median("an epoch's end", ends["ours"], "ms", loop, ends["bare"], note=epoch),
    ]
