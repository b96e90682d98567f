"""Fixtures: the command line in an empty folder, and the real CIFAR-10 if it is available."""

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from regularization.cli.main import main
from tests.processes import kill_the_rest

CONFIGS = Path(__file__).parents[1] / "configs"
# The base config of the tests that do not test a shipped config.
BASE = Path(__file__).parent / "configs" / "quickstart.yaml"

# Tests run in several processes, and with networks that are too small for several threads.
torch.set_num_threads(1)

# The same examples in every run: a new failure is due to a change of the code. A slow example is not a failure.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

Rows = list[dict[str, float]]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts in a folder of its own, without a seed in its environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Restores the environment: Lightning sets MASTER_ADDR, which would make the next test wait for other processes."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _kill_processes() -> Iterator[None]:
    yield
    kill_the_rest()


@pytest.fixture
def cifar_root() -> str:
    """The folder of the real CIFAR-10."""
    root = os.environ.get("CIFAR10_ROOT")
    if not root:
        pytest.skip("needs the real CIFAR-10: set CIFAR10_ROOT to the folder that has cifar-10-batches-py")
    return root


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Fixes the number of threads, on which the last bits of a sum depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with exit code 2, and returns its one or two lines."""

    def run(*args: str) -> str:
        before = sorted(Path.cwd().rglob("*"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main(args)
        error = capsys.readouterr().err
        assert exit_.value.code == 2
        assert error.startswith("error: ")
        assert 1 <= len(error.strip().splitlines()) <= 2
        assert sorted(Path.cwd().rglob("*")) == before, "something was left half-written"
        return error

    return run


def rows_of(run: Path) -> Rows:
    """``metrics.csv`` as numbers, NaN where a row has none."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
