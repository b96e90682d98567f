"""Our own training, through the function behind the command ``fit``; each measurement needs its own process."""

import itertools
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.cli.console import configure_logging
from regularization.training.command import run_fit
from tests.benchmarks.speed.loops import now


class Finished(Exception):  # noqa: N818 - enough was measured, no error
    """Ends a training without the work at the end of its epoch."""


class Clock(Callback):
    """Times ``steps`` steps, data loading included, after ``warm`` others, then ends the training."""

    def __init__(self, steps: int, warm: int) -> None:
        self.steps = steps
        self.warm = warm
        self.seconds = 0.0
        self._start = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Measures from the end of one step to the end of another."""
        device = trainer.strategy.root_device.type
        if trainer.global_step == self.warm:
            self._start = now(device)
        if trainer.global_step == self.warm + self.steps:
            self.seconds = (now(device) - self._start) / self.steps
            raise Finished


def seconds_a_step(args: list[str], steps: int, warm: int) -> float:
    """Seconds per step of ``fit`` with these options, including everything that happens at a step, without validation.

    An epoch must have ``warm + steps`` batches.
    """
    configure_logging()
    clock = Clock(steps, warm)
    limits = ["--trainer.limit_train_batches", str(warm + steps), "--trainer.limit_val_batches", "0"]
    with TemporaryDirectory() as folder, suppress(Finished):
        run_fit([*args, *limits, "--trainer.default_root_dir", folder], callbacks=[clock])
    assert clock.seconds, "the epoch was over before the measurement"
    return clock.seconds


def peak_memory(args: list[str]) -> float:
    """The peak main memory of the whole process of a ``fit`` with these options, in MiB (Linux)."""
    configure_logging()
    with TemporaryDirectory() as folder:
        run_fit([*args, "--trainer.default_root_dir", folder])
    # Not getrusage: its maximum is inherited from the process that started this one.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def options(words: Mapping[str, object]) -> list[str]:
    """``--name value`` for each."""
    return list(itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in words.items()))
