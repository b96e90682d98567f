"""The description of the regularization in a config, which is printed at the end of a run."""

from pathlib import Path
from typing import Any

import pytest

from regularization.cli.main import main
from regularization.training.regularizers import describe
from tests.conftest import CONFIGS
from tests.training.test_command import QUICK


def penalty(strength: float) -> dict[str, Any]:
    return {"class_path": "regularization.L1", "init_args": {"strength": strength}}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, ""),
        ({"model": {"optimizer": {"init_args": {"weight_decay": 0.0005}}}}, "weight decay 0.0005"),
        ({"model": {"optimizer": {"init_args": {"weight_decay": 0}}, "label_smoothing": 0.1}}, "label smoothing 0.1"),
        (
            {"model": {"network": {"init_args": {"dropout": 0.2}}}, "data": {"init_args": {"flip": True}}},
            "dropout 0.2, flips",
        ),
        ({"model": {"penalties": {"l1": penalty(1e-5), "off": penalty(0), "gone": None}}}, "penalty l1 1e-05"),
        (
            {"model": {"mixing": {"class_path": "torchvision.transforms.v2.MixUp", "init_args": {"alpha": 0.2}}}},
            "MixUp 0.2",
        ),
        ({"callbacks": {"ema": {"class_path": "regularization.EMA"}, "off": None}}, "EMA"),
        ({"callbacks": {"stop": {"class_path": "lightning.pytorch.callbacks.EarlyStopping"}}}, "early stopping"),
    ],
)
def test_a_config_is_described(config: dict[str, Any], text: str) -> None:
    assert describe(config) == text


@pytest.mark.parametrize(
    ("overlays", "options", "line"),
    [
        (
            ("label_smoothing", "ema"),
            ["--model.optimizer.weight_decay", "0"],
            "regularization: label smoothing 0.1, EMA",
        ),
        ((), ["--model.optimizer.weight_decay", "0", "--trainer.logger", "false"], "regularization: none"),
    ],
)
def test_a_run_ends_with_what_acted(
    overlays: tuple[str, ...], options: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [word for name in overlays for word in ("--config", str(CONFIGS / "with" / f"{name}.yaml"))]
    main(["fit", *QUICK, *configs, *options, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"])
    out = capsys.readouterr().out.splitlines()
    assert line in out
    (run,) = Path("runs").glob("*/version_0")
    assert out[-1] == f"compare runs: python -m regularization report {run.parent}"
    assert (f"in TensorBoard: tensorboard --logdir {run}" in out) == ("--trainer.logger" not in options)
    assert max(map(len, out[:-3])) <= 80
