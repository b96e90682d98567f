"""The part ``growth``: how the time grows with image size, batch size, number of images, trials and workers.

The time of an epoch of ``configs/seed.yaml`` through ``fit`` is extrapolated from a few timed steps. The studies train
on the digits, with the base config of the tests and enough values and seeds for 1, 4 or 16 trials; each is run once,
from its command to its report.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.speed.fits import options, seconds_a_step
from tests.benchmarks.speed.process import command, elsewhere
from tests.benchmarks.speed.rounds import alternately
from tests.benchmarks.speed.rows import Row, counted, median
from tests.benchmarks.speed.settings import Settings, config

BASE = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SIZES = (32, 48, 64, 96, 128)
BATCHES = (32, 64, 128, 256, 512)
IMAGES = (5_000, 10_000, 25_000, 50_000)
STUDIES = {1: ([5e-4], 1), 4: ([0, 1e-4, 1e-3, 1e-2], 1), 16: ([0, 1e-4, 1e-3, 1e-2], 4)}
WORKERS = (1, 2)
ROUNDS = 3  # at most: there are 14 processes to a round


def measure(settings: Settings) -> list[Row]:
    """Five kinds of growth; the rows of each are compared with its first row."""
    epochs = {
        **{f"an epoch at {size}×{size}": partial(epoch, settings, size=size) for size in SIZES},
        **{f"an epoch in batches of {batch}": partial(epoch, settings, batch=batch) for batch in BATCHES},
        **{f"an epoch of {count:,} images": partial(epoch, settings, count=count) for count in IMAGES},
    }
    values = alternately(min(settings.rounds, ROUNDS), epochs)
    names = list(epochs)
    parts = [names[:5], names[5:10], names[10:]]
    note = "the seed's network; extrapolated from a few steps"
    return [row for part in parts for row in _rows(values, part, note)] + studies(settings)


def epoch(settings: Settings, size: int = 96, batch: int = 64, count: int = 50_000) -> float:
    """Seconds of an epoch through ``fit``, extrapolated."""
    steps, warm = (settings.size(60, 1), 10) if settings.on_gpu else (settings.size(3, 1), 1)
    # The remaining images are held out and not used; with val_size 0 the test images are held out.
    asked = {"data.image_size": size, "data.batch_size": batch, "data.val_size": 50_000 - count}
    args = [*config("seed"), *settings.accelerator, *options(dict(asked))]
    return elsewhere(seconds_a_step, args, steps, warm) * -(-count // batch)


def studies(settings: Settings) -> list[Row]:
    """Seconds of whole studies."""
    trials = list(STUDIES)[: settings.size(3, 1)]
    runs = {
        study_name(some, workers): partial(study, settings, some, workers) for some in trials for workers in WORKERS
    }
    values = alternately(1, runs)
    note = "tests/configs/quickstart.yaml from command to report"
    by_workers = [[study_name(some, workers) for some in trials] for workers in WORKERS]
    return [row for names in by_workers for row in _rows(values, names, note)]


def study_name(trials: int, workers: int) -> str:
    """The name of a study in the table."""
    return f"{counted(trials, 'trial')}, {counted(workers, 'worker')}"


def study(settings: Settings, trials: int, workers: int) -> float:
    """Seconds of a study with the given numbers of trials and workers."""
    values, seeds = STUDIES[trials]
    vary = json.dumps({"model.optimizer.weight_decay": values})
    with TemporaryDirectory() as folder:
        ours = options(
            {"base": BASE, "until": "seeds", "vary": vary, "seeds": seeds, "workers": workers, "folder": folder}
        )
        short = options({"trainer.max_epochs": 1}) if settings.quick else []
        return command("sweep", *config("sweeps/quickstart"), *ours, *settings.accelerator, *short)


def _rows(values: dict[str, list[float]], names: Sequence[str], note: str) -> list[Row]:
    first, *rest = names
    compared = [median(name, values[name], "s", first, values[first], note=note) for name in rest]
    return [median(first, values[first], "s", note=note), *compared]
