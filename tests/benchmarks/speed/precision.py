"""The part ``precision``: steps in bfloat16 on a CPU that has instructions for it, beside the same steps in fp32.

The steps are those of ``fit``, loading included, with the configs of the original experiment, ``fast``, ``fast_sgd``
and ``speedrun`` on images of full size.
"""

from functools import partial

from regularization.models.compilation import bfloat16_instructions
from tests.benchmarks.speed.fits import seconds_a_step
from tests.benchmarks.speed.process import elsewhere
from tests.benchmarks.speed.rounds import alternately
from tests.benchmarks.speed.rows import Row, Target, median, not_run
from tests.benchmarks.speed.settings import Settings, config

NAMES = ("seed", "fast", "fast_sgd", "speedrun")
FP32, BF16 = "32-true", "bf16-mixed"
TARGET = Target(0.7, most=True, of_ratio=True)


def measure(settings: Settings) -> list[Row]:
    """A row for each config, or one row that says why nothing was measured."""
    if settings.on_gpu or not bfloat16_instructions():
        return [not_run("bfloat16", "this is for CPUs with bfloat16 instructions")]
    steps, warm = settings.size(12, 1), settings.size(3, 1)
    measures = {
        f"{name}, {precision}": partial(elsewhere, seconds_a_step, _options(settings, name, precision), steps, warm)
        for name in NAMES
        for precision in (FP32, BF16)
    }
    values = alternately(settings.rounds, measures)
    return [
        median(f"a step of {name}, {BF16}", values[f"{name}, {BF16}"], "s", FP32, values[f"{name}, {FP32}"], TARGET)
        for name in NAMES
    ]


def _options(settings: Settings, name: str, precision: str) -> list[str]:
    full_size = [] if name == "seed" else ["--data.early_share", "0", "--test", "null"]
    return [*config(name), *settings.accelerator, *full_size, "--trainer.precision", precision]
