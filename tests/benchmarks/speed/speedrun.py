"""The part ``speedrun``: the training time of ``configs/speedrun.yaml`` and airbench94 with Muon, from steps of each.

A whole training of either takes a quarter of an hour or more on a few cores, so steps are measured in turn and
multiplied by their number; start and evaluation are left out. With ``--whole``, ours is also trained, for its accuracy.
AIRBENCH must name a checkout of github.com/KellerJordan/cifar10-airbench. Its script is for a GPU in half precision:
here its network and its optimizers work in fp32 on the CPU, uncompiled, on prepared batches. If the CPU has bfloat16
instructions, both are also measured in bfloat16.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import nn
from torch.nn import functional

from regularization.models.compilation import bfloat16_instructions
from regularization.training.memory import retain_freed_memory
from tests.benchmarks.speed.fast import accuracy_row, trained
from tests.benchmarks.speed.fits import seconds_a_step
from tests.benchmarks.speed.process import elsewhere
from tests.benchmarks.speed.rounds import alternately
from tests.benchmarks.speed.rows import Row, Target, median, not_run
from tests.benchmarks.speed.settings import CONFIGS, Settings, config

SCRIPT = "airbench94_muon.py"
THEIR_STEPS, THEIR_BATCH = 200, 2000  # eight epochs of 25
IMAGES = 50_000
THEIRS = "airbench94-Muon"
BF16 = ", bf16"
# (name, whether freed memory is kept as in our program, whether the network computes in bfloat16)
COMPARED = (("as it is", False, False), ("memory kept", True, False), (f"memory kept{BF16}", True, True))
TARGETS = {"as it is": 1.25, "memory kept": 1.0, f"memory kept{BF16}": 1.0}


def measure(settings: Settings) -> list[Row]:
    """A step at each size, one of airbench's, and both trainings."""
    steps, warm = settings.size(6, 1), settings.size(2, 1)
    args = [*config("speedrun"), *settings.accelerator, "--test", "null"]
    in_bf16 = bool(bfloat16_instructions()) and not settings.on_gpu
    measures: dict[str, Callable[[], float]] = {}
    for suffix, precision in (("", "32-true"), (BF16, "bf16-mixed")) if in_bf16 else (("", "32-true"),):
        for name, share in (("small", "1"), ("whole", "0")):
            words = [*args, "--data.early_share", share, "--trainer.precision", precision]
            measures[f"step, {name}{suffix}"] = partial(elsewhere, seconds_a_step, words, steps, warm)
    script = Path(os.environ.get("AIRBENCH", "")) / SCRIPT
    if script.is_file():
        for name, kept, bfloat16 in COMPARED if in_bf16 else COMPARED[:2]:
            measures[name] = partial(elsewhere, airbench, str(script), settings.size(3, 1), kept, bfloat16)
    return [*_rows(alternately(settings.rounds, measures)), *(_whole(settings) if settings.whole else [])]


def _whole(settings: Settings) -> list[Row]:
    """The whole command, with each seed."""
    runs = [trained(settings, "speedrun", seed=seed) for seed in range(settings.seeds)]
    ours = f"the command, {settings.seeds} seeds"
    return [
        median("fit --config configs/speedrun.yaml, all of it", [seconds for seconds, _ in runs], "s", note=ours),
        accuracy_row("its test accuracy", [accuracy for _, accuracy in runs], Target(0.94)),
    ]


def _rows(values: dict[str, list[float]]) -> list[Row]:
    rows = [median(f"a {name} images", values[name], "s") for name in values if name.startswith("step, ")]
    theirs = [name for name in values if name in TARGETS]
    for name in theirs:
        target = Target(TARGETS[name], most=True, of_ratio=True)
        others = [THEIR_STEPS * value for value in values[name]]
        ours, note = _training(values, BF16 if name.endswith(BF16) else "")
        note += f"; theirs: {THEIR_STEPS} steps of {statistics.median(values[name]):.2f} s"
        rows.append(median("its training", ours, "s", f"{THEIRS}, {name}", others, target, note))
    if theirs:
        return rows
    ours, note = _training(values, "")
    return [
        *rows,
        median("its training", ours, "s", note=note),
        not_run(THEIRS, f"AIRBENCH names no folder with {SCRIPT}"),
    ]


def _training(values: dict[str, list[float]], suffix: str) -> tuple[list[float], str]:
    """The seconds of all training steps of ``configs/speedrun.yaml`` in each round, and the number of steps."""
    asked = yaml.safe_load((CONFIGS / "speedrun.yaml").read_text())
    data = asked["data"]["init_args"]
    steps = asked["trainer"]["max_epochs"] * -(-IMAGES // data["batch_size"])
    early = round(steps * data["early_share"])
    pairs = zip(values[f"step, small{suffix}"], values[f"step, whole{suffix}"], strict=True)
    seconds = [early * small + (steps - early) * whole for small, whole in pairs]
    return seconds, f"{steps:,} steps, {early:,} of them small"


def airbench(script: str, steps: int, kept: bool, bfloat16: bool = False) -> float:
    """Seconds of a training step of airbench94 with Muon, a median over ``steps`` after one that is not timed.

    Args:
        script: The file of its script.
        steps: Number of timed steps.
        kept: Whether freed memory is kept, as our program does.
        bfloat16: Whether the network computes in bfloat16 where that is safe, as with our ``bf16-mixed``.
    """
    if kept:
        retain_freed_memory()
    layout = torch.channels_last
    with mock.patch.object(torch, "compile", lambda function: function):
        theirs = _loaded(script)
    network: Any = theirs.CifarNet().float().to(memory_format=layout)
    network.reset()
    optimizers = _optimizers(network, theirs.Muon)
    inputs = torch.randn(THEIR_BATCH, 3, 32, 32).contiguous(memory_format=layout)
    labels = torch.randint(10, (THEIR_BATCH,))
    seconds = []
    # Its own use of bfloat16 would be slower than fp32 on most CPUs.
    own = nullcontext() if bfloat16 else mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.float)
    with own:
        for _ in range(steps + 1):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = functional.cross_entropy(network(inputs), labels, label_smoothing=0.2, reduction="sum")
            torch.autograd.backward(loss)
            for optimizer in optimizers:
                optimizer.step()
            network.zero_grad(set_to_none=True)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _loaded(script: str) -> Any:
    spec = importlib.util.spec_from_file_location("airbench", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _optimizers(network: nn.Module, muon: Any) -> list[Any]:
    """Its Muon for the filters and SGD for the rest; the rates are its own, and make no difference to the time."""
    trained = [w for w in network.parameters() if w.requires_grad]
    rest = [w for w in trained if w.ndim != 4]
    sgd = torch.optim.SGD(rest, lr=0.05, momentum=0.85, nesterov=True, weight_decay=4e-3 / 0.05)
    return [sgd, muon([w for w in trained if w.ndim == 4], lr=0.24, momentum=0.6, nesterov=True)]
