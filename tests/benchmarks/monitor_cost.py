"""What the monitor costs: the seconds its hooks take in one epoch, over the seconds of that epoch.

Run on a quiet machine with `CIFAR10_ROOT=… python -m tests.benchmarks.monitor_cost [limit_train_batches]`; trains
configs/cifar10.yaml's network for one epoch of that many batches (352 are a whole one) in a temporary folder.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from regularization.callbacks.monitor import Monitor
from regularization.cli.main import main

CONFIG = Path(__file__).parents[2] / "configs" / "cifar10.yaml"
HOOKS = ("on_before_optimizer_step", "_accumulate_decay", "on_validation_epoch_end", "on_train_epoch_end")


def timed(hook: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """``hook``, adding the time it takes to ``seconds``."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = hook(*args, **kwargs)
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    return wrapper


if __name__ == "__main__":
    batches = sys.argv[1] if len(sys.argv) > 1 else "352"
    seconds: dict[str, float] = {}
    for name in HOOKS:
        setattr(Monitor, name, timed(getattr(Monitor, name), name, seconds))
    root = os.environ["CIFAR10_ROOT"]
    with tempfile.TemporaryDirectory() as folder:
        limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", batches]
        main(["fit", "--config", str(CONFIG), "--data.root", root, "--trainer.default_root_dir", folder, *limits])
        (run,) = Path(folder).glob("cifar10/version_0")
        header, row = (run / "metrics.csv").read_text().splitlines()
        epoch = dict(zip(header.split(","), map(float, row.split(",")), strict=True))["seconds"]
    for name, taken in seconds.items():
        print(f"{name:28s} {taken:7.3f} s   {taken / epoch:.2%} of the epoch")
    print(f"{'all':28s} {sum(seconds.values()):7.3f} s   {sum(seconds.values()) / epoch:.2%} of the epoch")
