"""``validate`` and ``test`` give the network the images that it was trained on: size, mean, std and classes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regularization.cli.main import main
from regularization.runs import checkpoint_io
from tests.conftest import rows_of
from tests.training.test_command import QUICK, Refused

TINY = (*QUICK, "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1")


def test_an_option_that_disagrees_with_the_training_is_refused(
    capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    # The config sets 16, as configs/with/finetune.yaml sets 112; the command line of the training set 12.
    Path("size.yaml").write_text("data: {init_args: {image_size: 16}}")
    sized = [*TINY, "--config", "size.yaml"]
    main(["fit", *sized, "--data.image_size", "12"])
    run = Path("runs/quickstart+size/version_0")
    last = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt")]
    for command in ("validate", "test"):
        message = refused(command, *sized, "--ckpt_path", "last")
        assert "--data.image_size: 16 here, but the network was trained with 12" in message
        assert "--preprocess config scores it" in message
    normalized = ["--data.std", "[1, 1, 1]", "--data.mean"]
    for option, mean in (("mean", "[0.5, 0.5, 0.1]"), ("std", "[0.5, 0.5, 0.5]")):
        message = refused("validate", *last, *normalized, mean)
        assert f"--data.{option}: [" in message
        assert "the network was trained with [0.5, 0.5, 0.5]" in message
    accuracy = f"val_accuracy {rows_of(run)[0]['val_accuracy']:.2%}"
    capsys.readouterr()
    for args in (last, [*sized, *last, "--data.image_size", "12"]):
        main(["validate", *args])
        assert accuracy in capsys.readouterr().out
    main(["validate", *sized, *last, "--preprocess", "config"])
    assert "val_accuracy" in capsys.readouterr().out
    # A checkpoint of an early version does not record how it was trained.
    content = torch.load(last[1], weights_only=True)
    del content["serving"]
    torch.save(content, last[1])
    main(["validate", *sized, *last])
    assert "val_accuracy" in capsys.readouterr().out


def test_other_classes_are_refused(refused: Refused) -> None:
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        for number in range(40):
            path = Path("trained") / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (10, 10, 3), dtype=np.uint8)).save(path)
    shutil.copytree("trained", "other")
    Path("other/bee").rename("other/cat")
    data = ["--data", "ImageFolder", "--data.image_size", "8", "--data.root"]
    network = ["--model.network", "SmallResNet", "--model.network.width", "4", "--trainer.accelerator", "cpu"]
    main(["fit", *network, *data, "trained", "--trainer.max_epochs", "1"])
    (last,) = Path("runs").rglob("last.ckpt")
    assert checkpoint_io.read(last)["serving"]["classes"] == ["ant", "bee"]
    message = refused("test", "--ckpt_path", str(last), "--data.root", "other")
    assert "the classes of the data: cat here, but the network was trained with bee" in message
    message = refused("test", "--ckpt_path", str(last), *data, "trained", "--data.resize", "20")
    assert "--data.resize: 20 here, but the network was trained with 9" in message
