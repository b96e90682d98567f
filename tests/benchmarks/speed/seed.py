"""The part ``seed``: the experiment of ``configs/seed.yaml``, beside the notebook it comes from and a bare loop.

All train the same network in fp32 with SGD on CIFAR-10 at 96×96 in batches of 64, in images/s of steps in mid-epoch.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial

import torch

from tests.benchmarks.speed.fits import options, peak_memory, seconds_a_step
from tests.benchmarks.speed.loops import bare, notebook
from tests.benchmarks.speed.machine import cores
from tests.benchmarks.speed.process import elsewhere
from tests.benchmarks.speed.rounds import Values, alternately
from tests.benchmarks.speed.rows import Row, Target, counted, median, not_run
from tests.benchmarks.speed.settings import Settings, config

UNIT = "images/s"
BARE = "bare loop"
COMPILED = "bare loop, compiled"
COMPILE_MODES = {COMPILED: "default", "bare loop, max-autotune": "max-autotune-no-cudagraphs"}


def measure(settings: Settings) -> list[Row]:
    """Ours against both loops, the memory it takes, and the choices of memory format, threads and compiling."""
    values = alternately(settings.rounds, _loops(settings) | _choices(settings))
    return [*_compared(values), _memory(settings), *_chosen(values)]


def pace(settings: Settings) -> tuple[int, int]:
    """(timed steps, steps before them). A GPU first uses up the batches that the notebook's workers have prefetched."""
    steps, warm = (300, 100) if settings.on_gpu else (12, 3)
    return settings.size(steps, 2), settings.size(warm, 1)


def notebook_rate(settings: Settings) -> float:
    """The notebook's images/s with its 4 worker processes; on a GPU, with one per core."""
    workers = max(4, cores()) if settings.on_gpu else 4
    return elsewhere(notebook, *pace(settings), settings.device, workers)


def _loops(settings: Settings) -> dict[str, Callable[[], float]]:
    args = [*config("seed"), *settings.accelerator]
    steps, warm = pace(settings)
    return {
        "notebook": lambda: notebook_rate(settings),
        BARE: lambda: elsewhere(bare, steps, warm, settings.device),
        "ours": lambda: 64 / elsewhere(seconds_a_step, args, steps, warm),
    }


def _choices(settings: Settings) -> dict[str, Callable[[], float]]:
    """The bare loop with another memory format, compiled, and with every number of threads that is a power of two."""
    steps, warm = pace(settings)
    on = (steps, warm, settings.device)
    found: dict[str, Callable[[], float]] = {
        "bare loop, contiguous": lambda: elsewhere(bare, *on, memory_format="contiguous")
    }
    if not settings.on_gpu:
        counts = [count for count in (2**power for power in range(10)) if count < cores()]
        for count in [*counts, cores()]:
            found[f"bare loop, {counted(count, 'thread')}"] = partial(elsewhere, bare, *on, threads=count)
    if has_compiler(settings) and not settings.quick:
        # Compiled in the steps that are not timed; PyTorch caches the code for later rounds.
        for name, mode in COMPILE_MODES.items():
            found[name] = partial(elsewhere, bare, *on, compile_mode=mode)
    return found


def _compared(values: Values) -> list[Row]:
    ours, note = values["ours"], "through fit, without validation"
    return [
        median("ours", ours, UNIT, "notebook-style loop", values["notebook"], Target(1.15, of_ratio=True), note),
        median("ours", ours, UNIT, BARE, values[BARE], Target(0.95, of_ratio=True), note),
    ]


def _memory(settings: Settings) -> Row:
    short = {"trainer.max_epochs": 1, "trainer.limit_train_batches": settings.size(5, 2)}
    args = [*config("seed"), *settings.accelerator, *options(short), *options({"trainer.limit_val_batches": 2})]
    target = None if settings.on_gpu else Target(1536, most=True)
    peak = elsewhere(peak_memory, args)
    return median("peak memory of a short run", [peak], "MiB", target=target, note="VmHWM of its process")


def _chosen(values: Values) -> list[Row]:
    usual = f"{BARE}: channels_last, {counted(torch.get_num_threads(), 'thread')}, not compiled"
    rows = [median(name, values[name], UNIT, usual, values[BARE]) for name in values if name.startswith("bare loop,")]
    return rows if COMPILED in values else [*rows, not_run(COMPILED, "no C++ compiler, or only a try")]


def has_compiler(settings: Settings) -> bool:
    """Whether torch.compile can work: on a CPU it needs a C++ compiler, on a GPU it brings its own."""
    named = (os.environ.get("CXX", "c++"), "g++", "clang++")
    return settings.on_gpu or any(shutil.which(name) for name in named)
