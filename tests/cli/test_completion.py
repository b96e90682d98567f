"""The script that ``completion`` prints, loaded and queried by a real shell."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from regularization.cli import completion
from regularization.cli.main import COMMANDS, main

Refused = Callable[..., str]
ASK = """
source {script}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_regularization
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shell") / "script"
    path.write_text(completion.script("bash"))
    return path


@pytest.fixture
def offered(script: Path) -> Callable[..., list[str]]:
    """The completions that bash offers for the last of the words."""
    if (bash := shutil.which("bash")) is None:
        pytest.skip("needs bash")

    def ask(*words: str) -> list[str]:
        command = [bash, "-c", ASK.format(script=script), "bash", "regularization", *words]
        # A completion must start no program, in particular not Python, so that it takes no time.
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PATH": ""})
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_commands(offered: Callable[..., list[str]]) -> None:
    assert set(offered("")) == set(COMMANDS)
    assert offered("sw") == ["sweep"]
    assert offered("completion", "") == ["bash", "zsh", "tcsh"]


def test_options_and_their_values(offered: Callable[..., list[str]]) -> None:
    assert offered("fit", "--model.label") == ["--model.label_smoothing"]
    assert offered("fit", "--config", "quickstart", "--trust", "--trainer.max_e") == ["--trainer.max_epochs"]
    assert offered("fit", "--model.decay", "") == ["all", "weights"]
    assert offered("fit", "--data", "C") == ["CIFAR10", "CIFAR100"]
    assert "torch.optim.AdamW" in offered("fit", "--model.optimizer", "")
    assert "SGDW" in offered("fit", "--model.optimizer", "")
    assert offered("fit", "--trainer.benchmark", "") == ["true", "false", "null"]
    assert "--trust" not in offered("report", "--")
    assert "--baseline" in offered("report", "folder", "--")
    assert offered("export", "--format", "") == ["onnx", "torch"]
    assert offered("predict", "--images", "a.png", "b.png", "--ckpt") == ["--ckpt_path"]
    assert offered("sweep", "--search", "") == ["grid", "halving", "tpe"]


def test_options_inside_the_usual_classes(offered: Callable[..., list[str]]) -> None:
    assert offered("fit", "--data.batch") == ["--data.batch_size"]
    assert offered("fit", "--data.test_s") == ["--data.test_size"]
    assert offered("fit", "--model.network.w") == ["--model.network.width"]
    assert offered("sweep", "--model.lr_scheduler.decay", "") == ["linear", "cosine"]
    assert "--model.optimizer.weight_decay" in offered("sweep", "--model.optimizer.w")


def test_configs_are_names_and_files(offered: Callable[..., list[str]]) -> None:
    Path("own.yaml").touch()
    Path("notes.txt").touch()
    Path("folder_of_mine").mkdir()
    assert set(offered("fit", "--config", "")) >= {"quickstart", "cifar10", "with/l1", "own.yaml", "folder_of_mine"}
    assert not {"notes.txt", "sweeps/kinds"} & set(offered("fit", "--config", ""))
    assert offered("fit", "--config", "quickstart", "--config", "with/lab") == ["with/label_smoothing"]
    assert set(offered("sweep", "--config", "")) >= {"sweeps/quickstart", "own.yaml"}
    assert "quickstart" not in offered("sweep", "--config", "")


def test_checkpoints_and_folders(offered: Callable[..., list[str]]) -> None:
    Path("runs").mkdir()
    Path("runs/x.ckpt").touch()
    assert set(offered("test", "--ckpt_path", "")) == {"best", "last", "runs"}
    assert offered("fit", "--hou") == ["--hours"]
    assert offered("test", "--hou") == offered("fit", "--prep") == []
    assert offered("test", "--ckpt_path", "runs/") == ["runs/x.ckpt"]
    assert offered("report", "ru") == ["runs"]
    assert offered("predict", "--images", "a.png", "ru") == ["runs"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_scripts_for_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    text = capsys.readouterr().out
    assert "weight_decay" in text
    if shell == "zsh" and shutil.which("zsh"):
        subprocess.run(["zsh", "-n"], input=text, text=True, check=True)


def test_unknown_shells(refused: Refused) -> None:
    assert "invalid choice: 'fish'" in refused("completion", "fish")
    assert "shell" in refused("completion")
