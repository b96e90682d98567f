"""The configs that come with the program: found by their names, from anywhere, in a checkout and in a wheel."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from regularization.cli.main import main
from regularization.training.configs import config_names, find_config, split_args
from tests.conftest import CONFIGS

CHECKOUT = CONFIGS.parent

Refused = Callable[..., str]


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart", "configs/quickstart.yaml"])
def test_a_config_is_found_by_its_name(name: str) -> None:
    assert find_config(name) == CONFIGS / "quickstart.yaml"


def test_every_config_has_a_name() -> None:
    assert {"quickstart", "with/l1", "sweeps/quickstart"} < set(config_names())
    assert [find_config(name) for name in config_names()] == [CONFIGS / f"{name}.yaml" for name in config_names()]


def test_each_way_to_name_a_config() -> None:
    Path("own.yaml").write_text("seed_everything: 1\n")
    args = ["fit", "--config", "quickstart", "--config=with/l1", "-c", "own.yaml", "--trainer.max_epochs", "1"]
    quickstart, l1 = CONFIGS / "quickstart.yaml", CONFIGS / "with" / "l1.yaml"
    assert split_args(args) == ([quickstart, l1, Path("own.yaml")], ["fit", "--trainer.max_epochs", "1"])


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "configs/quickstart.yaml"])
def test_ones_own_file_comes_first(name: str) -> None:
    Path("configs").mkdir()
    Path(name).write_text("seed_everything: 1\n")
    assert find_config(name) == Path(name)


def test_a_folder_of_the_same_name_is_no_config(refused: Refused) -> None:
    Path("quickstart").mkdir()
    assert find_config("quickstart") == CONFIGS / "quickstart.yaml"
    Path("runs").mkdir()
    assert "can't read the config runs: Is a directory" in refused("fit", "--config", "runs")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("quickstrat", "can't read the config quickstrat: No such file or directory (did you mean quickstart?)"),
        ("configs/cifar.yaml", "configs/cifar.yaml: No such file or directory (did you mean cifar10?)"),
        ("l1", "(did you mean with/l1?)"),
        ("sweeps/quikstart", "(did you mean sweeps/quickstart?)"),
        ("nothing/like/it", "nothing/like/it: No such file or directory\n"),
    ],
)
def test_the_nearest_name_is_told(name: str, said: str, refused: Refused) -> None:
    assert said in refused("fit", "--config", name)
    assert said in refused("sweep", "--config", name)


def test_a_run_is_called_as_its_config() -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]
    main(["fit", "--config", "quickstart", "--config", "with/l1", *short])
    assert Path("runs/quickstart+l1/version_0/config.yaml").is_file()


def test_a_study_and_its_base_are_found_by_their_names(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    main(["sweep", "--config", "sweeps/quickstart", "--dry-run"])
    assert "15 trials" in capsys.readouterr().out
    Path("own.yaml").write_text("base: quickstart\narms: {none: null, l1: with/l1}\nbaseline: none\n")
    main(["sweep", "--config", "own.yaml", "--dry-run", "--seeds", "1"])
    assert str(CONFIGS / "with" / "l1.yaml") in capsys.readouterr().out
    Path("own.yaml").write_text("base: quickstrat\narms: {none: null}\n")
    assert "there is no config quickstrat, neither here nor beside own.yaml (did you mean quickstart?)" in refused(
        "sweep", "--config", "own.yaml"
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that a wheel installs; it is built from a copy because setuptools leaves files in the source folder."""
    source, built, installed = (tmp_path_factory.mktemp(name) for name in ("source", "built", "installed"))
    for folder in ("regularization", "configs"):
        shutil.copytree(CHECKOUT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / file, source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(built), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = built.iterdir()
    zipfile.ZipFile(wheel).extractall(installed)
    return installed


@pytest.mark.slow
def test_a_wheel_brings_every_config(installed: Path) -> None:
    folder = installed / "regularization" / "configs"
    assert {path.relative_to(folder) for path in folder.rglob("*.*")} == {
        path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.*")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fit", "--config", "quickstart", "--print_config"], "class_path: regularization.Digits"),
        (["fit", "--config", "configs/quickstart.yaml", "--print_config"], "class_path: regularization.Digits"),
        (["sweep", "--config", "sweeps/quickstart", "--dry-run"], "15 trials"),
    ],
)
def test_a_wheel_finds_its_configs_from_anywhere(args: list[str], said: str, installed: Path) -> None:
    command = [sys.executable, "-m", "regularization", *args]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_oldest_versions_are_those_of_the_project() -> None:
    done = subprocess.run([sys.executable, CHECKOUT / ".ci" / "minimum.py"], capture_output=True, text=True, check=True)
    oldest = done.stdout.split()
    about = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = about["optional-dependencies"]
    for requirement in [*about["dependencies"], *extras["test"]]:
        assert requirement.split(",")[0].replace(">=", "==") in oldest
    assert "jsonargparse[signatures]==4.53" in oldest
    assert len(set(oldest)) == len(oldest)
