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
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b""
    rows = rows_of(Path("runs/quickstart/version_0"))
    assert len(rows) == 30
    assert rows[-1]["val_accuracy"] >= 0.91
    # In a pipe: a line per epoch, no progress bar that is drawn again, and no line that wraps in a terminal.
    lines = done.stdout.decode().split("\n")[:-1]
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == [f"{n}/30" for n in range(1, 31)]
    assert lines[0].startswith("SmallResNet with 19,858 parameters")
    assert lines[-1] == "compare runs: python -m regularization report runs/quickstart"
    assert b"\r" not in done.stdout
    assert max(len(line.rstrip()) for line in lines) <= 80


def test_the_seed_learns_on_real_cifar(cifar_root: str) -> None:
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "60", "--trainer.limit_val_batches", "5"]
    main(["fit", "--config", str(CONFIGS / "seed.yaml"), "--data.root", cifar_root, *limits])
    row = rows_of(Path("runs/seed/version_0"))[0]
    assert row["train_loss"] < 2.2  # random guessing has a loss of 2.303
    assert row["train_accuracy"] > 0.15
