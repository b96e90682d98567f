"""Errors in a user's own code keep their traceback; values that known classes reject end in one line."""

import sys
import traceback
from pathlib import Path

import pytest

from regularization.cli.main import main
from tests.training.test_command import Refused

MODULE = """
import torch
from lightning.pytorch.callbacks import Callback
from regularization import Digits, L2

class Network(torch.nn.Module):
    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, "8", 3)  # the mistake: network

class Optimizer(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1):
        super().__init__(params, lr=lr)
        len(3)  # the mistake: optimizer

class Schedule(torch.optim.lr_scheduler.ConstantLR):
    def __init__(self, optimizer, factor: float = 0.1):
        super().__init__(optimizer, factor=7.0)  # the mistake: schedule

class Penalty(L2):
    def __init__(self, strength: float = 1.0):
        super().__init__(strength)
        len(3)  # the mistake: penalty

class Data(Digits):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        len(3)  # the mistake: data

class Own(Callback):
    def __init__(self, value: int = 3):
        raise ValueError("bad value")  # the mistake: callback
"""


@pytest.fixture
def own_code(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with mistakes."""
    Path("own_code.py").write_text(MODULE)
    Path("own_broken.py").write_text("import torch\nlen(3)  # the mistake: import\n")
    monkeypatch.syspath_prepend(Path.cwd())
    for name in ("own_code", "own_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_code"


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (["--model.network", "own_code.Network"], "network"),
        (["--model.network", "own_broken.Network"], "import"),
        (["--model.optimizer", "own_code.Optimizer"], "optimizer"),
        (["--model.lr_scheduler", "own_code.Schedule"], "schedule"),
        (["--model.penalties.mine", "own_code.Penalty"], "penalty"),
        (["--data", "own_code.Data"], "data"),
        (["--callbacks.mine", "own_code.Own"], "callback"),
    ],
)
def test_an_error_in_a_class_of_the_users_has_file_and_line(own_code: str, options: list[str], where: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        main(["fit", *([] if "--data" in options else ["--data", "Digits"]), *options])
    assert f"# the mistake: {where}" in "".join(traceback.format_exception(error.value))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.optimizer.momentum", "-3"], "Invalid momentum value"),
        (["--model.network", "torchvision.models.resnet18", "--model.network.norm_layer", "3"], "norm_layer"),
        (["--data.crop_padding", "-1"], "--data.crop_padding must be at least 0"),
        (["--model.optimizer", "own_code.Optimizer", "--model.optimizer.lr", "x"], "lr: must be float, not x"),
    ],
)
def test_a_value_that_is_rejected_is_one_line(
    own_code: str, options: list[str], message: str, refused: Refused
) -> None:
    assert message in refused("fit", "--data", "Digits", *options)
