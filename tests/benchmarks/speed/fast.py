"""The part ``fast``: the whole command ``fit --config configs/fast.yaml``, its seconds and its test accuracy.

It is compared with 16 epochs of the notebook: 16 · 50,000 images at the images/s of its loop between the runs.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.speed.process import command
from tests.benchmarks.speed.rows import Row, Target, median
from tests.benchmarks.speed.seed import notebook_rate
from tests.benchmarks.speed.settings import Settings, config

EPOCHS, IMAGES = 16, 50_000


def measure(settings: Settings) -> list[Row]:
    """Seconds, accuracy, and how many times as long the notebook takes."""
    seconds, accuracies, rates = [], [], []
    for seed in range(settings.seeds):
        rates.append(notebook_rate(settings))
        taken, accuracy = trained(settings, "fast", seed=seed)
        seconds.append(taken)
        accuracies.append(accuracy)
    epochs = [EPOCHS * IMAGES / rate for rate in rates]
    note = f"extrapolated from {statistics.median(rates):.1f} images/s; ratio: how many times ours; stretch: 100"
    ours = f"the command, {settings.seeds} seeds"
    times = Target(60, of_ratio=True)
    return [
        median("fit --config configs/fast.yaml, all of it", seconds, "s", note=ours),
        accuracy_row("its test accuracy", accuracies, Target(0.783)),
        median(f"{EPOCHS} epochs of the notebook-style loop", epochs, "s", ours, seconds, times, note),
    ]


def trained(settings: Settings, *configs: str, seed: int = 0, more: Sequence[str] = ()) -> tuple[float, float]:
    """(seconds of the whole command, its test accuracy); one of the configs must score the test images."""
    with TemporaryDirectory() as folder:
        where = ["--trainer.default_root_dir", folder, "--seed_everything", str(seed)]
        seconds = command("fit", *config(*configs), *settings.accelerator, *where, *more, *settings.few)
        (result,) = Path(folder).rglob("result.json")
        accuracy = float(json.loads(result.read_text())["test"]["test_accuracy"])
    print(f"  {'+'.join(configs)}, seed {seed}: {seconds:.4g} s, {accuracy:.4f}", file=sys.stderr, flush=True)
    return seconds, accuracy


def accuracy_row(what: str, accuracies: list[float], target: Target | None = None) -> Row:
    """The row of a mean, with its standard deviation."""
    mean, count = statistics.mean(accuracies), len(accuracies)
    spread = f"standard deviation {statistics.stdev(accuracies):.4f}" if count > 1 else "one seed"
    return Row(what, mean, "", target=target, note=spread, how=f"mean of {count}", values=accuracies)
