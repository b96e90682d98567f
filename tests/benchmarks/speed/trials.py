"""The part ``trials``: trials of ``configs/fast_sgd.yaml`` per hour on one GPU, by the number of trials at a time.

A study's trials run in processes of their own. They are compared with training steps of several networks in one process
with stacked weights (``stacked.py``), extrapolated to the images of a trial, without validation, checkpoints and the
like.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from regularization.study.execution.storage import open_journal
from tests.benchmarks.speed.fits import options
from tests.benchmarks.speed.process import command, elsewhere
from tests.benchmarks.speed.rows import Row, counted, median, not_run
from tests.benchmarks.speed.settings import CONFIGS, Settings, config
from tests.benchmarks.speed.stacked import images_a_second

WORKERS = (1, 2, 4, 8, 16)
STACKED = (1, 4, 16, 64)
IMAGES = 2 * 45_000  # per trial
UNIT = "trials/h"


def measure(settings: Settings) -> list[Row]:
    """Both ways to run several trials at a time, compared with one at a time."""
    if not settings.on_gpu:
        return [not_run("trials at a time on a GPU", "--device is cpu")]
    alone = processes(settings, 1)
    rows = [median("1 trial at a time", [alone], UNIT)]
    for workers in WORKERS[1 : settings.size(5, 2)]:
        what = f"{workers} trials at a time, in processes"
        rows.append(median(what, [processes(settings, workers)], UNIT, "1 at a time", [alone]))
    for count in STACKED[: settings.size(4, 1)]:
        rate = elsewhere(images_a_second, count, settings.size(60, 1), settings.size(20, 1), settings.device)
        what = f"{counted(count, 'network')} stacked, training steps alone"
        rows.append(median(what, [rate * 3600 / IMAGES], UNIT, "1 at a time", [alone], note=f"{rate:,.0f} images/s"))
    return rows


def processes(settings: Settings, workers: int) -> float:
    """Trials per hour between the start of the first one and the end of the last one."""
    trials = max(2, 2 * workers)
    vary = json.dumps({"model.optimizer.weight_decay": [0, 1.33e-3]})
    study = {"base": CONFIGS / "fast_sgd.yaml", "vary": vary, "seeds": trials // 2, "workers": workers, "threads": 1}
    with TemporaryDirectory() as folder:
        asked = options(study | {"until": "seeds", "folder": folder, "data.on_device": "true"})
        # Without max_steps, which would leave the last epoch without a validation.
        few = settings.few[:-2]
        command("sweep", *config("sweeps/small_cifar10"), *asked, "--options", "{}", *settings.accelerator, *few)
        (found,) = Path(folder).glob("*/version_0")
        return trials / seconds_of(found) * 3600


def seconds_of(study: Path) -> float:
    """Seconds from the start of a study's first trial to the end of its last one, by Optuna's record."""
    storage = open_journal(study)
    (number,) = [one._study_id for one in storage.get_all_studies()]
    trials = [one for one in storage.get_all_trials(number) if one.datetime_start and one.datetime_complete]
    starts, ends = [one.datetime_start for one in trials], [one.datetime_complete for one in trials]
    return (max(filter(None, ends)) - min(filter(None, starts))).total_seconds()
