"""Weights from a file on disk: taken over, refused, and the normalization that belongs to them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from jsonargparse import dict_to_namespace

from regularization import SmallResNet, UserError, load
from regularization.cli.main import main
from regularization.models.pretrained import load_weights, published_normalization
from tests.conftest import CONFIGS
from tests.data.test_image_folder import draw
from tests.training.test_command import QUICK, RUN

Refused = Callable[..., str]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_takes_all_but_the_last_layer() -> None:
    torch.save(SmallResNet(num_classes=7, width=8).state_dict(), "seven.pth")
    network = SmallResNet(num_classes=3, width=8)
    head = network.head.weight.clone()
    assert load_weights(network, Path("seven.pth")) == ["head.weight", "head.bias"]
    kept = torch.load("seven.pth", weights_only=True)
    assert torch.equal(network.stem.weight, kept["stem.weight"])
    assert torch.equal(network.head.weight, head)
    assert load_weights(SmallResNet(num_classes=7, width=8), Path("seven.pth")) == []


def test_checkpoints_and_safetensors() -> None:
    from safetensors.torch import save_file

    theirs = SmallResNet(width=8)
    save_file(theirs.state_dict(), "a.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}}, "b.pth")
    for name in ("a.safetensors", "b.pth"):
        ours = SmallResNet(width=8)
        assert load_weights(ours, Path(name)) == []
        assert all(torch.equal(ours.state_dict()[key], tensor) for key, tensor in theirs.state_dict().items())


def test_refuses_other_networks_and_files() -> None:
    torch.save(SmallResNet(width=16).state_dict(), "wide.pth")
    with pytest.raises(
        UserError, match=r"wide.pth is of another network: .* is \(16, 3, 3, 3\) there and \(8, 3, 3, 3\)"
    ):
        load_weights(SmallResNet(width=8), Path("wide.pth"))
    torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
    with pytest.raises(UserError, match=r"conv1.weight is .* there and absent in SmallResNet"):
        load_weights(SmallResNet(), Path("resnet18.pth"))
    torch.save(SmallResNet(), "pickled.pth")
    Path("text.pth").write_text("no weights")
    torch.save({"epoch": 3}, "empty.pth")
    for name, reason in {
        "pickled.pth": "holds more than tensors",
        "text.pth": "damaged",
        "empty.pth": "no state dict",
        "absent.pth": "there is no file",
    }.items():
        with pytest.raises(UserError, match=reason):
            load_weights(SmallResNet(), Path(name))


def test_published_normalization() -> None:
    def of(class_path: str, **options: str) -> object:
        return published_normalization(dict_to_namespace({"class_path": class_path, "init_args": options}))

    assert of("torchvision.models.resnet18") == IMAGENET
    assert of("timm.create_model", model_name="resnet18") == IMAGENET
    assert of("timm.create_model", model_name="vit_base_patch16_224") == ((0.5,) * 3, (0.5,) * 3)
    assert of("regularization.SmallResNet") is None


def test_fine_tuning_ones_own_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("pets"), {"cat": 10, "dog": 10})
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), "resnet18.pth")
    configs = ["--config", str(CONFIGS / "folder.yaml"), "--config", str(CONFIGS / "with" / "finetune.yaml")]
    small = ["--data.root", "pets", "--data.image_size", "32", "--trainer.max_epochs", "1"]
    main(["fit", *configs, *small])
    run = Path("runs/folder+finetune/version_0")
    assert "l2sp" in capsys.readouterr().out
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert (tuple(data["mean"]), tuple(data["std"])) == IMAGENET
    # The file is not needed any more: its weights, and what L2-SP draws back to, are in the checkpoint.
    Path("resnet18.pth").unlink()
    main(["fit", *configs, *small, "--trainer.max_epochs", "2", "--ckpt_path", "last"])
    model = load(run)
    assert model.classes == ("cat", "dog")
    assert model.preprocess.mean.flatten().tolist() == pytest.approx(IMAGENET[0])
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    origin = kept["regularizer"]["l2sp"]
    assert any(torch.equal(tensor, theirs.conv1.weight) for tensor in _tensors(origin))


def _tensors(state: object) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [tensor for one in inner for tensor in _tensors(one)]


def test_on_the_command_line(refused: Refused) -> None:
    fit = ["fit", *QUICK, "--trainer.max_epochs", "1"]
    assert "--model.weights: there is no file none.pth" in refused(
        *fit, "--model.weights", "none.pth", "--data.mean", "[0.5,0.5,0.5]", "--data.std", "[0.5,0.5,0.5]"
    )
    assert "by --data.mean and --data.std" in refused(*fit, "--model.weights", "none.pth")
    main([*fit, "--trainer.limit_train_batches", "1"])
    again = [*fit, "--model.weights", str(RUN / "checkpoints" / "best.ckpt"), "--trainer.limit_train_batches", "1"]
    main([*again, "--data.mean", "[0.5,0.5,0.5]", "--data.std", "[0.5,0.5,0.5]"])
