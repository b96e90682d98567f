"""The part ``gpu``: training with ``configs/with/gpu.yaml``, a bare loop in the same precision, and the notebook.

Images/s are those of the network of ``configs/seed.yaml`` at 96×96 in mid-epoch. The whole part is designed to take ten
minutes on an H100.
"""

from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory

import torch

from tests.benchmarks.speed.fast import accuracy_row, trained
from tests.benchmarks.speed.fits import options, seconds_a_step
from tests.benchmarks.speed.loops import bare
from tests.benchmarks.speed.process import command, elsewhere
from tests.benchmarks.speed.rounds import alternately
from tests.benchmarks.speed.rows import Row, Target, median, not_run
from tests.benchmarks.speed.seed import notebook_rate
from tests.benchmarks.speed.settings import CONFIGS, Settings, config

BATCHES = (64, 512)
GPU = "with/gpu"
ROUNDS = 3  # at most: every process compiles for a while


def measure(settings: Settings) -> list[Row]:
    """Images/s, the seed's 20 epochs, and the fast configs."""
    if not settings.on_gpu:
        return [not_run("training on a GPU", "no GPU" if not torch.cuda.is_available() else "--device is cpu")]
    return [*rates(settings), seed_run(settings), *quick_runs(settings)]


def rates(settings: Settings) -> list[Row]:
    """Images/s of ours, of the bare loop and of the notebook."""
    measures: dict[str, Callable[[], float]] = {"notebook": partial(notebook_rate, settings)}
    for batch in BATCHES:
        measures[f"ours, {batch}"] = partial(our_rate, settings, batch)
        measures[f"bare, {batch}"] = partial(bare_rate, settings, batch)
    values = alternately(min(settings.rounds, ROUNDS), measures)
    rows = []
    for batch in BATCHES:
        ours, target = values[f"ours, {batch}"], Target(60_000) if batch == 512 else None
        what, loop = f"ours, batch {batch}", "bare loop, bf16, compiled"
        rows.append(median(what, ours, "images/s", loop, values[f"bare, {batch}"], target))
        rows.append(median(what, ours, "images/s", "notebook-style loop, batch 64", values["notebook"]))
    return rows


def our_rate(settings: Settings, batch: int) -> float:
    """Images/s of ``fit`` in mid-epoch."""
    args = [*config("seed", GPU), *settings.accelerator, *options({"data.batch_size": batch})]
    return batch / elsewhere(seconds_a_step, args, *pace(settings, batch))


def bare_rate(settings: Settings, batch: int) -> float:
    """Images/s of the bare loop in bfloat16, compiled."""
    return elsewhere(bare, *pace(settings, batch), settings.device, batch, compile_mode="default", bfloat16=True)


def pace(settings: Settings, batch: int) -> tuple[int, int]:
    """(timed steps, steps before them, in which the network is compiled); an epoch in batches of 512 has 98 steps."""
    return (settings.size(600 if batch < 512 else 80, 2), settings.size(15, 1))


def seed_run(settings: Settings) -> Row:
    """Seconds of the seed's experiment, all 20 epochs with their validation, from the command to its end."""

    def whole() -> float:
        with TemporaryDirectory() as folder:
            where = ["--trainer.default_root_dir", folder]
            return command("fit", *config("seed", GPU), *settings.accelerator, *where, *settings.few)

    what = "20 epochs of configs/seed.yaml, the whole command"
    (seconds,) = alternately(1, {what: whole}).values()
    return median(what, seconds, "s", target=Target(30, most=True), note="batch 64; code compiled before is on disk")


def quick_runs(settings: Settings) -> list[Row]:
    """Seconds and accuracies of the configs that are meant to be fast."""
    rows = []
    for name, seeds in (("fast", settings.seeds), ("speedrun", 1)):
        what = f"configs/{name}.yaml"
        if not (CONFIGS / f"{name}.yaml").is_file():
            rows.append(not_run(what, "there is no such config"))
            continue
        # Compiling takes longer than the whole training.
        eager = ["--model.compile", "false"]
        results = [trained(settings, name, GPU, seed=seed, more=eager) for seed in range(seeds)]
        seconds, accuracies = ([one[place] for one in results] for place in (0, 1))
        rows += [median(f"{what}, the whole command", seconds, "s"), accuracy_row(f"{what}: test accuracy", accuracies)]
    return rows
