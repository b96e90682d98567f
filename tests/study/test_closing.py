"""The end of a study."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from regularization.cli.main import main
from regularization.study.closing import _fit_command
from regularization.study.config import Arm
from regularization.training.configs import find_config


def test_the_command_that_trains_an_arm_is_understood() -> None:
    base, overlay = (str(find_config(name)) for name in ("quickstart", "with/l1"))
    plan: Any = SimpleNamespace(common=["--config", base, "--trainer.max_epochs=1"])
    arm = Arm("l1", "l1", {}, ("--config", overlay, "--model.penalties.l1.strength=0.01"))
    command = _fit_command(plan, arm)
    expected = "python -m regularization fit --config quickstart --trainer.max_epochs=1 --config with/l1"
    assert command == f"{expected} --model.penalties.l1.strength=0.01"
    main(shlex.split(command)[3:])
    assert (Path("runs/quickstart+l1/version_0") / "result.json").is_file()
