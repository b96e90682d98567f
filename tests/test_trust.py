"""Attacks on whoever loads a checkpoint: pickles that run code, and class paths that would."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from regularization import trust
from regularization.cli import main
from regularization.mistakes import Mistake
from tests.test_cli import QUICK, RUN, Refused

LAST = RUN / "checkpoints" / "last.ckpt"
SHORT = (*QUICK, "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1")


class Bomb:
    """Its pickle creates a file when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_malicious_pickle_does_not_run(command: str, refused: Refused) -> None:
    main(["fit", *SHORT])
    content = torch.load(LAST, weights_only=True)
    torch.save({**content, "callbacks": {"x": Bomb()}}, LAST)
    assert "is not a whole checkpoint" in refused(command, *QUICK, "--ckpt_path", str(LAST))
    assert not Path("attacked").exists()
    torch.load(LAST, weights_only=False)
    assert Path("attacked").exists(), "the attack is a real one"


EVIL = """
import os
import torch

os.mkdir("attacked")


class Net(torch.nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
"""


@pytest.mark.parametrize(
    "where",
    [
        {"model": {"network": {"class_path": "evil.Net"}}},
        {"model": {"optimizer": "evil.Net"}},
        {"model": {"penalties": {"x": {"class_path": "evil.Net"}}}},
        {"callbacks": {"x": {"class_path": "evil.Net"}}},
        {"trainer": {"logger": [{"class_path": "evil.Net"}]}},
        {"trainer": {"strategy": "evil.Net"}},
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
    where: dict[str, Any], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(os.getcwd())
    main(["fit", *SHORT])
    content = torch.load(LAST, weights_only=True)
    for section, changes in where.items():
        content["config"][section] = {**(content["config"].get(section) or {}), **changes}
    torch.save(content, LAST)
    for command in ("fit", "test"):
        message = refused(command, "--ckpt_path", str(LAST))
        assert "last.ckpt wants to run evil.Net, which belongs neither to this program nor to torch" in message
        assert "--trust" in message
    assert not Path("attacked").exists()
    assert "evil" not in sys.modules


def test_trust_runs_it_and_so_does_naming_it_oneself(monkeypatch: pytest.MonkeyPatch) -> None:
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
        "regularization.runs.os.system",
        "torch.nn.functional.warnings.warn",
        "regularization.data.readers.pickle.loads",
        "lightning.pytorch.callbacks.LambdaCallback",
    ],
)
def test_what_a_trusted_package_imports_is_not_trusted(name: str) -> None:
    with pytest.raises(Mistake, match="wants to run"):
        trust.check_names({"deep": [{"inside": name}]}, [], "x.ckpt")
    trust.check_names({"deep": [{"inside": name}]}, [name], "x.ckpt")


def test_what_is_no_class_path_is_left_alone() -> None:
    words = ["weights.pth", "runs/x", "cpu", "SmallResNet", "1.5", "a.b.c", "channels_last", "val_loss"]
    trust.check_names({"words": words, "number": 1.5, "nothing": None}, [], "x.ckpt")
    ours = ["regularization.SmallResNet", "torch.optim.SGD", "torchvision.models.resnet18", "timm.create_model"]
    ours += ["lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.cli.ReduceLROnPlateau"]
    ours += ["torchvision.transforms.v2.MixUp", "torchvision.models.resnet.BasicBlock", "torch.nn.BatchNorm2d"]
    trust.check_names([{"class_path": name} for name in ours], [], "x.ckpt")
