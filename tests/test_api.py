"""The Python functions ``fit``, ``load`` and ``sweep``."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from regularization import UserError, fit, load, sweep
from regularization.data.readers import read_digits
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
    assert (resumed.folder, len(resumed.rows), resumed.weight_decay) == (run.folder, 3, 5e-4)
    with pytest.raises(UserError, match=r"did you mean trainer\.max_epochs"):
        fit(QUICKSTART, trainer__max_epochz=2)
    without_validation = fit(QUICKSTART, trainer__max_epochs=1, data__val_size=None, test="last")
    assert math.isnan(without_validation.accuracy)
    assert without_validation.checkpoint.name == "last.ckpt"
    assert without_validation.test_accuracy == pytest.approx(0.9, abs=0.1)
    pixels = read_digits(train=False).pixels
    assert load(resumed.checkpoint)(pixels[:5]).shape == (5, 10)


@pytest.mark.slow
def test_a_sweep_from_a_script_without_a_main_guard() -> None:
    """Worker processes must not run the script that started them."""
    Path("script.py").write_text(
        "from regularization import sweep\n"
        f"answer = sweep({str(STUDY)!r}, workers=2, seeds=1, trainer__max_epochs=1)\n"
        "open('ran', 'a').write('x')\n"
        "print([arm.name for arm in answer.arms], answer.chosen.mean)\n"
    )
    process = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert "'weight_decay=0.1']" in process.stdout.splitlines()[-1]
    assert Path("ran").read_text() == "x"


def test_a_dry_run_has_no_answer() -> None:
    with pytest.raises(UserError, match="dry_run"):
        sweep(STUDY, dry_run=True)
