"""The Python functions ``fit``, ``load`` and ``sweep``."""

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from regularization import UserError, fit, load, sweep
from regularization.data.readers import read_digits
from regularization.training import command
from tests.conftest import CONFIGS

QUICKSTART = CONFIGS / "quickstart.yaml"
STUDY = CONFIGS / "sweeps" / "quickstart.yaml"


def test_fit_and_load() -> None:
    run = fit(QUICKSTART, trainer__max_epochs=2, model__optimizer__weight_decay=1e-3, data__val_size=300)
    assert run.folder.name == "version_0"
    assert run.weight_decay == 1e-3
    assert len(run.rows) == 2
    assert run.accuracy == run.rows[-1]["val_accuracy"]
    resumed = fit(QUICKSTART, trainer__max_epochs=3, ckpt_path="last")
    assert (resumed.folder, len(resumed.rows), resumed.weight_decay) == (run.folder, 3, 0.3)
    with pytest.raises(UserError, match=r"did you mean trainer\.max_epochs"):
        fit(QUICKSTART, trainer__max_epochz=2)
    without_validation = fit(QUICKSTART, trainer__max_epochs=1, data__val_size=None, test="last")
    assert math.isnan(without_validation.accuracy)
    assert without_validation.checkpoint.name == "last.ckpt"
    assert without_validation.test_accuracy == pytest.approx(0.9, abs=0.1)
    pixels = read_digits(train=False).pixels
    assert load(resumed.checkpoint)(pixels[:5]).shape == (5, 10)


def test_fit_takes_dicts_as_configs_and_numbers_of_numpy() -> None:
    overlay: dict[str, Any] = {"model": {"network": {"init_args": {"width": np.int32(4)}}}, "trainer.max_epochs": 9}
    late = {"trainer": {"gradient_clip_val": math.inf, "limit_train_batches": 2}, "callbacks": {"ema": "EMA"}}
    options = {"trainer__max_epochs": np.int64(1), "model__optimizer__lr": np.float32(0.25)}
    run = fit([QUICKSTART, MappingProxyType(overlay), late], **options, data__mean=np.zeros(3), data__std=torch.ones(3))
    assert run.folder.parent.name == "quickstart+default"
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["model"]["network"]["init_args"]["width"] == 4
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.25
    assert config["trainer"]["gradient_clip_val"] == math.inf
    assert config["callbacks"]["ema"]["class_path"] == "regularization.EMA"
    assert config["data"]["init_args"]["mean"] == [0, 0, 0]
    assert len(run.rows) == 1
    with pytest.raises(UserError, match="of type object cannot be an option"):
        fit(QUICKSTART, trainer__max_epochs=object())
    with pytest.raises(UserError, match="fast_dev_run keeps nothing"):
        fit(QUICKSTART, trainer__fast_dev_run=True)


def test_fit_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "retain_freed_memory", None)  # calling it would raise
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    def state() -> tuple[object, ...]:
        levels = [logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")]
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        filters = (list(warnings.filters), warnings.showwarning)
        return (
            dict(os.environ),
            torch.get_num_threads(),
            threading.excepthook,
            sys.excepthook,
            levels,
            handlers,
            filters,
        )

    before = state()
    short = {"trainer__max_epochs": 1, "trainer__limit_train_batches": 1, "data__val_size": 300}
    fit(QUICKSTART, **short, threads=2, seed_everything=3)
    assert state() == before
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_a_sweep_from_a_script_without_a_main_guard() -> None:
    """Worker processes must not run the script that started them."""
    Path("script.py").write_text(
        "from regularization import sweep\n"
        f'answer = sweep({str(STUDY)!r}, workers=2, seeds=1, until="seeds", trainer__max_epochs=1)\n'
        "open('ran', 'a').write('x')\n"
        "assert answer.report.is_file() and repr(answer).startswith('<StudyAnswer of 5 arms in runs/quickstart')\n"
        "print([arm.name for arm in answer.arms], answer.chosen.mean)\n"
    )
    process = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert "'weight_decay=3']" in process.stdout.splitlines()[-1]
    assert Path("ran").read_text() == "x"


def test_a_dry_run_has_no_answer() -> None:
    with pytest.raises(UserError, match="dry_run"):
        sweep(STUDY, dry_run=True)
