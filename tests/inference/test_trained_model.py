"""Loading a trained network from a checkpoint, and what a checkpoint may not do."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from regularization import UserError, load
from regularization.cli.main import main
from regularization.data.readers import read_digits
from regularization.inference.trained_model import TrainedModel
from tests.training.test_command import QUICK, RUN, Refused

CHECKPOINT = RUN / "checkpoints" / "best.ckpt"


def test_a_loaded_network_predicts_as_in_training(digits: TrainedModel) -> None:
    images = read_digits(train=False)
    probabilities = digits(images.pixels)
    assert digits.classes == tuple("0123456789")
    assert not digits.training
    assert probabilities.dtype == torch.float32
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(360), atol=1e-5)
    main(["test", *QUICK, "--ckpt_path", "best"])
    accuracy = json.loads((RUN / "result.json").read_text())["test"]["test_accuracy"]
    assert (probabilities.argmax(dim=1) == images.labels).float().mean().item() == pytest.approx(accuracy, abs=1e-6)
    by_hand = digits.network(digits.preprocess(images.pixels)).softmax(dim=1)
    assert torch.equal(probabilities, by_hand)


def test_a_run_folder_without_a_best_checkpoint_stands_for_the_last(digits: TrainedModel) -> None:
    CHECKPOINT.unlink()
    last = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    weights = load(RUN).network.state_dict()
    assert all(torch.equal(weights[name], last[f"network.{name}"]) for name in weights)


def test_checkpoints_that_are_refused(digits: TrainedModel, refused: Refused) -> None:
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    del checkpoint["serving"]
    torch.save(checkpoint, "old.ckpt")
    with pytest.raises(UserError, match="does not contain its classes"):
        load("old.ckpt")
    checkpoint["serving"] = {"classes": list("0123456789"), "preprocess": {"size": 8}}
    checkpoint["config"]["model"]["network"]["class_path"] = "os.system"
    torch.save(checkpoint, "foreign.ckpt")
    message = refused("predict", "--ckpt_path", "foreign.ckpt", "--images", ".")
    assert "the checkpoint names os.system, which is not part of this program" in message
    assert "there is no file" in refused("predict", "--ckpt_path", "absent.ckpt", "--images", ".")
    assert ". is not a run folder" in refused("predict", "--ckpt_path", ".", "--images", ".")


class Unpickled:
    """A pickle that creates a folder when it is read, if code in it is run."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("command", ["predict", "test"])
def test_a_network_can_download_no_code(command: str, digits: TrainedModel, refused: Refused) -> None:
    torch.save({"conv1.weight": Unpickled()}, "evil.pth")
    downloads: list[dict[str, Any]] = [
        {"pretrained": True, "pretrained_cfg": {"url": f"file://{Path.cwd()}/evil.pth"}},
        {"pretrained": True, "pretrained_cfg_overlay": {"file": "evil.pth"}},
        {"checkpoint_path": "evil.pth"},
    ]
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    for options in downloads:
        network = {"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t", **options}}
        checkpoint["config"]["model"]["network"] = network
        torch.save(checkpoint, "foreign.ckpt")
        args = ["--images", "."] if command == "predict" else []
        refused(command, "--ckpt_path", "foreign.ckpt", *args)
        assert not Path("owned").exists()
    network["init_args"] = {"model_name": "hf-hub:some/one"}
    torch.save(checkpoint, "foreign.ckpt")
    assert "wants to download hf-hub:some/one" in refused(command, "--ckpt_path", "foreign.ckpt", *args)
    network.update(class_path="regularization.load", init_args={"checkpoint": "foreign.ckpt"})
    torch.save(checkpoint, "foreign.ckpt")
    assert "the checkpoint names regularization.load" in refused(command, "--ckpt_path", "foreign.ckpt", *args)


def test_a_checkpoint_whose_parts_do_not_fit_together(digits: TrainedModel) -> None:
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    changes: list[dict[str, Any]]
    changes = [{"serving": 0}, {"serving": {"preprocess": {"sise": 3}}}, {"config": {}}, {"state_dict": {}}]
    for change in changes:
        torch.save(checkpoint | change, "odd.ckpt")
        with pytest.raises(UserError, match="don't fit together"):
            load("odd.ckpt")


def test_classes_and_outputs_must_be_as_many_and_weights_finite(digits: TrainedModel, refused: Refused) -> None:
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    for classes in (["a"], [], list("abcdefghijk")):
        torch.save(checkpoint | {"serving": checkpoint["serving"] | {"classes": classes}}, "odd.ckpt")
        with pytest.raises(UserError, match=rf"shape \(1, 10\), and there are {len(classes)} classes"):
            load("odd.ckpt")
    checkpoint["state_dict"]["network.head.bias"][0] = float("nan")
    torch.save(checkpoint, "nan.ckpt")
    for command in (["predict", "--images", "."], ["test"]):
        message = refused(*command, "--ckpt_path", "nan.ckpt")
        assert "head.bias contains NaN or infinity, so that the network cannot be used" in message


def test_pretrained_weights_are_not_downloaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "IMAGENET1K_V1"}}
    network |= {"dict_kwargs": {"num_classes": 10}}
    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    checkpoint = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["config"]["model"]["network"] = network
    from torchvision.models import resnet18

    reference = resnet18(num_classes=10)
    checkpoint["state_dict"] = {f"network.{name}": tensor for name, tensor in reference.state_dict().items()}
    torch.save(checkpoint, "resnet.ckpt")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)  # must not be called
    loaded = load("resnet.ckpt").network
    assert torch.equal(loaded.fc.weight, reference.fc.weight)  # type: ignore[union-attr, arg-type]
