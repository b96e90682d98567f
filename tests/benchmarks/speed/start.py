"""The part ``start``: seconds from the command ``fit --config configs/cifar10.yaml`` to the end of its first step.

The time starts before the process is started. After the first step, a PyTorch hook on every optimizer prints the clock,
which all processes of a machine share, and ends the process.
"""

import sys
import time
from tempfile import TemporaryDirectory

from tests.benchmarks.speed.process import output_of
from tests.benchmarks.speed.rounds import alternately
from tests.benchmarks.speed.rows import Row, Target, median
from tests.benchmarks.speed.settings import Settings, config

FIRST_STEP = """
import os, sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
from regularization.cli.main import main

def stepped(*_):
    print(f"\\n{time.monotonic()}", flush=True)
    os._exit(0)

register_optimizer_step_post_hook(stepped)
main(sys.argv[1:])
"""
IMPORTS = "import time, torch, torchvision, lightning; print(time.monotonic())"


def measure(settings: Settings) -> list[Row]:
    """The start, compared with a process that only imports what every training imports."""

    def first_step() -> float:
        with TemporaryDirectory() as folder:
            words = [*config("cifar10"), *settings.accelerator, "--trainer.default_root_dir", folder]
            return until_printed(FIRST_STEP, "fit", *words)

    values = alternately(settings.rounds, {"imports": lambda: until_printed(IMPORTS), "first step": first_step})
    what, against = "from the command to its first step", "importing torch, torchvision, lightning"
    target = Target(12, most=True)
    note = "configs/cifar10.yaml"
    return [median(what, values["first step"], "s", against, values["imports"], target, note)]


def until_printed(script: str, *args: str) -> float:
    """Seconds from before ``python -c script`` is started to the clock in its last line."""
    start = time.monotonic()
    return float(output_of([sys.executable, "-c", script, *args]).splitlines()[-1]) - start
