"""Attacks by a checkpoint on the user who loads it: pickles that run code, and class paths that would."""

import copy
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from jsonargparse import _common, _optionals

from regularization.cli.main import main
from regularization.runs import safe_loading
from tests.conftest import CONFIGS
from tests.training.test_command import QUICK, RUN, Refused

LAST = RUN / "checkpoints" / "last.ckpt"
SHORT = (*QUICK, "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1")


class Bomb:
    """Its pickle creates a folder when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_malicious_pickle_does_not_run(command: str, refused: Refused) -> None:
    main(["fit", *SHORT])
    content = torch.load(LAST, weights_only=True)
    torch.save({**content, "callbacks": {"x": Bomb()}}, LAST)
    assert "is not a complete checkpoint" in refused(command, *QUICK, "--ckpt_path", str(LAST))
    assert not Path("attacked").exists()
    torch.load(LAST, weights_only=False)
    assert Path("attacked").exists(), "without weights_only=True the attack works"


EVIL = """
import os
import torch

os.mkdir("attacked")


class Net(torch.nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
"""


@pytest.mark.parametrize(
    "attack",
    [
        {"model": {"network": {"class_path": "evil.Net"}}},
        {"model": {"optimizer": "evil.Net"}},
        {"model": {"penalties": {"x": {"class_path": "evil.Net"}}}},
        {"callbacks": {"x": {"class_path": "evil.Net"}}},
        {"trainer": {"logger": [{"class_path": "evil.Net"}]}},
        {"trainer": {"strategy": "evil.Net"}},
        # YAML within a text, and files that the parser would read in place of a value.
        {"model": {"network": "{class_path: evil.Net}"}},
        {"model": {"network": "class_path: evil.Net"}},
        {"model": {"network": "./sub.yaml"}},
        {"model": {"network": "memory://sub.yaml"}},
        {"model": {"optimizer": "{class_path: evil.Net}"}},
        {"trainer": {"logger": "[{class_path: evil.Net}]"}},
        {"trainer": {"plugins": [{"class_path": "evil.Net"}]}},
        {
            "model": {
                "network": {
                    "class_path": "torchvision.models.ResNet",
                    "init_args": {
                        "block": "torchvision.models.resnet.BasicBlock",
                        "layers": [1, 1, 1, 1],
                        "norm_layer": "evil.Net",
                    },
                }
            }
        },
    ],
)
def test_a_malicious_class_path_does_not_run(
    attack: dict[str, Any], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("evil.py").write_text(EVIL)
    Path("sub.yaml").write_text("class_path: evil.Net")
    fsspec.filesystem("memory").pipe("/sub.yaml", b"class_path: evil.Net")
    monkeypatch.syspath_prepend(os.getcwd())
    main(["fit", *SHORT])
    content = torch.load(LAST, weights_only=True)
    for section, changes in attack.items():
        content["config"][section] = {**(content["config"].get(section) or {}), **changes}
    torch.save(content, LAST)
    for command in ("fit", "test"):
        message = refused(command, "--ckpt_path", str(LAST))
        assert "evil" in message or "sub.yaml" in message, message
    assert not Path("attacked").exists()
    assert "evil" not in sys.modules


def test_a_class_runs_with_trust_or_when_the_user_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(
        "from regularization import SmallResNet\n\n\nclass Net(SmallResNet):\n"
        "    def __init__(self, num_classes: int = 10) -> None:\n        super().__init__(num_classes, width=4)\n"
    )
    monkeypatch.syspath_prepend(os.getcwd())
    config = Path("mine.yaml")
    config.write_text("model: {network: {class_path: mine.Net}}")
    short = ["--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
    quick = ["--config", QUICK[1], *short]
    main(["fit", *quick, "--config", "mine.yaml", "--trainer.max_epochs", "1"])
    run = Path("runs/quickstart+mine/version_0")
    main(["fit", *quick, "--config", "mine.yaml", "--trainer.max_epochs", "2", "--ckpt_path", "last"])
    main(["fit", *quick, "--model.network", "mine.Net", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    main(["validate", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trust"])
    assert "trust" not in (run / "config.yaml").read_text()
    with pytest.raises(SystemExit) as exit_:
        main(["validate", "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "torch.hub.load",
        "torch.utils.cpp_extension.load",
        "regularization.runs.directory.os.system",
        "torch.nn.functional.warnings.warn",
        "LambdaCallback",
        "lightning.pytorch.callbacks.LambdaCallback",
        "ModelCheckpoint",  # writes and deletes files in any folder
        "regularization.load",  # would read another checkpoint
        "regularization.inference.trained_model.load",
        "regularization.trained.load",
        "regularization.inference.trained_model.TrainedModel",
        "regularization.fit",
    ],
)
def test_names_that_are_not_trusted(name: str, refused: Refused) -> None:
    main(["fit", *SHORT])
    content = torch.load(LAST, weights_only=True)
    for option in ("optimizer", "callback"):
        changed = copy.deepcopy(content)
        if option == "callback":
            changed["config"]["callbacks"] = {"x": {"class_path": name}}
        else:
            changed["config"]["model"]["optimizer"] = {"class_path": name}
        torch.save(changed, LAST)
        message = refused("validate", "--ckpt_path", str(LAST))
        assert "the checkpoint names" in message or "there is no class" in message or "must be" in message, message


def test_classes_of_the_program_torchvision_and_torch_are_trusted() -> None:
    overlays = [f"--config={CONFIGS / 'with' / name}.yaml" for name in ("early_stopping", "ema", "l1", "mixup")]
    resnet = ["--model.network", "torchvision.models.ResNet", "--model.network.layers", "[1,1,1,1]"]
    resnet += ["--model.network.block", "torchvision.models.resnet.BasicBlock"]
    resnet += ["--model.network.norm_layer", "torch.nn.BatchNorm2d"]
    short = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "1"]
    main(["fit", "--data", "Digits", "--data.image_size", "32", *overlays, *resnet, *short])
    (last,) = Path("runs").rglob("last.ckpt")
    main(["validate", "--ckpt_path", str(last), "--trainer.limit_val_batches", "1"])


def test_the_restriction_ends_with_the_command() -> None:
    main(["fit", *SHORT])
    before = dict(_common.parsing_settings), _optionals._config_read_mode
    main(["validate", "--ckpt_path", str(LAST)])
    with pytest.raises(SystemExit):
        main(["validate", "--ckpt_path", str(LAST), "--model.network.widht", "3"])
    assert (_common.parsing_settings, _optionals._config_read_mode) == before


def test_trusted_modules_of_the_program() -> None:
    modules = [name for name in safe_loading.TRUSTED if name.startswith("regularization.") and name.count(".") == 2]
    assert modules == [
        "regularization.callbacks.averaging",
        "regularization.data.augment",
        "regularization.data.augmentations",
        "regularization.data.datamodules",
        "regularization.data.image_folder",
        "regularization.data.preprocess",
        "regularization.models.classifier",
        "regularization.models.networks",
        "regularization.optim.penalties",
        "regularization.optim.schedules",
        "regularization.optim.sharpness",
        "regularization.optim.weight_decay",
    ]


def test_class_paths_of_version_0_1_are_those_of_today() -> None:
    assert set(safe_loading.MOVED.values()) <= set(safe_loading.TRUSTED)
    assert all(import_module(module) for module in safe_loading.MOVED.values())
    old = {
        "network": {"class_path": "regularization.networks.SmallResNet", "init_args": {"width": 4}},
        "optimizer": "regularization.weight_decay.SGDW",
        "penalties": [{"class_path": "regularization.penalties.L1"}, None],
        "data": "regularization.data.modules.Digits",
        "folder": "regularization.data.folder.ImageFolder",
        "schedule": "regularization.Linear",
        "callback": "regularization.callbacks.averaging.EMA",
        "other": ["regularization.penaltiesX.L1", "mine.regularization.penalties.L1", "regularization.penalties"],
    }
    assert safe_loading.with_current_paths(old) == {
        "network": {"class_path": "regularization.models.networks.SmallResNet", "init_args": {"width": 4}},
        "optimizer": "regularization.optim.weight_decay.SGDW",
        "penalties": [{"class_path": "regularization.optim.penalties.L1"}, None],
        "data": "regularization.data.datamodules.Digits",
        "folder": "regularization.data.image_folder.ImageFolder",
        "schedule": "regularization.Linear",
        "callback": "regularization.callbacks.averaging.EMA",
        "other": ["regularization.penaltiesX.L1", "mine.regularization.penalties.L1", "regularization.penalties"],
    }
