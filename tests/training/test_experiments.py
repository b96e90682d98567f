"""The configs run as they are, which takes longer: `pytest -m slow`."""

import subprocess
import sys
from pathlib import Path

import pytest

from regularization.cli.main import main
from tests.conftest import CONFIGS, rows_of

pytestmark = pytest.mark.slow


def test_quickstart_in_a_process_of_its_own() -> None:
    command = [sys.executable, "-m", "regularization", "fit", "--config", str(CONFIGS / "quickstart.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    rows = rows_of(Path("runs/quickstart/version_0"))
    assert len(rows) == 30
    assert rows[-1]["val_accuracy"] >= 0.91
    # In a pipe: the network, the table of what acts, the columns, a line per epoch, the outcome, and no progress bar.
    assert len(done.stdout.splitlines()) == 3 + 11 + 2 + 30 + 8


def test_the_seed_learns_on_real_cifar(cifar_root: str) -> None:
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "60", "--trainer.limit_val_batches", "5"]
    main(["fit", "--config", str(CONFIGS / "seed.yaml"), "--data.root", cifar_root, *limits])
    row = rows_of(Path("runs/seed/version_0"))[0]
    assert row["train_loss"] < 2.2  # 2.303 is a guess
    assert row["train_accuracy"] > 0.15
