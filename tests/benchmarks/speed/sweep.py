"""The part ``sweep``: how much longer 16 trials of ``configs/fast_sgd.yaml`` take than their training steps alone.

The sweep's time is that of the whole command: imports, images, validation, checkpoints, statistics and report. For
comparison, before and after the sweep, a bare loop trains the same network for as many steps on prepared batches; with
two workers, two bare loops run at the same time, each with one thread.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional

from regularization import WhitenedNet
from regularization.training.memory import retain_freed_memory
from tests.benchmarks.speed.fits import options
from tests.benchmarks.speed.process import command, elsewhere
from tests.benchmarks.speed.rows import Row, Target, counted, median
from tests.benchmarks.speed.settings import CONFIGS, Settings

TRIALS = 16
EPOCH, BATCH, EPOCHS = 45_000, 256, 2
EARLY_SHARE, EARLY_SIZE, SIZE = 0.3, 16, 24
TARGET = Target(1.1, most=True, of_ratio=True)


def measure(settings: Settings) -> list[Row]:
    """A row for each number of workers."""
    return [_row(settings, workers) for workers in (1, 2)]


def _row(settings: Settings, workers: int) -> Row:
    trials, threads = settings.size(TRIALS, 2), 2 // workers
    before = _bare_seconds(settings, workers, threads)
    taken = _sweep_seconds(settings, workers, threads, trials)
    after = _bare_seconds(settings, workers, threads)
    bare = [trials / workers * seconds for seconds in (before, after)]
    name = f"a sweep of {trials} trials with {counted(workers, 'worker')}"
    return median(name, [taken], "s", "the bare loops", bare, TARGET, note=f"{counted(threads, 'thread')} per trial")


def _sweep_seconds(settings: Settings, workers: int, threads: int, trials: int) -> float:
    vary = json.dumps({"model.optimizer.weight_decay": [0, 1.33e-3]})
    study = {"config": CONFIGS / "sweeps" / "lambda_curve.yaml", "vary": vary, "seeds": trials // 2}
    study |= {"workers": workers, "threads": threads, "until": "seeds"}
    with TemporaryDirectory() as folder:
        # Without max_steps, which would leave the last epoch without a validation.
        return command("sweep", *options(study | {"folder": folder}), *settings.accelerator, *settings.few[:-2])


def _bare_seconds(settings: Settings, workers: int, threads: int) -> float:
    """The seconds of one trial's training steps, a mean over ``workers`` loops that run at the same time."""
    divisor = settings.size(1, 20)
    with ThreadPoolExecutor(workers) as pool:
        loops = [pool.submit(elsewhere, bare_loop, threads, divisor) for _ in range(workers)]
    return sum(loop.result() for loop in loops) / workers * divisor


def bare_loop(threads: int, divisor: int) -> float:
    """Seconds of the training steps of ``configs/fast_sgd.yaml``, divided by ``divisor`` in number."""
    retain_freed_memory()
    torch.set_num_threads(threads)
    network = WhitenedNet(10, 32).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.85, nesterov=True, weight_decay=1.33e-3)
    steps = EPOCHS * -(-EPOCH // BATCH) // divisor
    early = int(EARLY_SHARE * steps)
    sizes = [EARLY_SIZE] * early + [SIZE] * (steps - early)
    prepared = {
        size: torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last) for size in set(sizes)
    }
    labels = torch.randint(10, (BATCH,))
    start = time.perf_counter()
    for size in sizes:
        loss = functional.cross_entropy(network(prepared[size]), labels, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return time.perf_counter() - start
