"""Weights from a file on disk: loaded, rejected, and the normalization that belongs to them."""

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


def test_loads_all_but_the_last_layer() -> None:
    torch.save(SmallResNet(num_classes=7, width=8).state_dict(), "seven.pth")
    network = SmallResNet(num_classes=3, width=8)
    head = network.head.weight.clone()
    assert load_weights(network, Path("seven.pth")) == ["head.weight", "head.bias"]
    loaded = torch.load("seven.pth", weights_only=True)
    assert torch.equal(network.stem.weight, loaded["stem.weight"])
    assert torch.equal(network.head.weight, head)
    assert load_weights(SmallResNet(num_classes=7, width=8), Path("seven.pth")) == []


def test_checkpoints_and_safetensors() -> None:
    from safetensors.torch import save_file

    saved = SmallResNet(width=8).state_dict()
    save_file(saved, "a.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in saved.items()}}, "b.pth")
    for file in ("a.safetensors", "b.pth"):
        network = SmallResNet(width=8)
        assert load_weights(network, Path(file)) == []
        assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in saved.items())


def test_other_networks_and_files_are_rejected() -> None:
    torch.save(SmallResNet(width=16).state_dict(), "wide.pth")
    with pytest.raises(
        UserError, match=r"wide.pth is from another network: .* is \(16, 3, 3, 3\) in the file and \(8, 3, 3, 3\)"
    ):
        load_weights(SmallResNet(width=8), Path("wide.pth"))
    torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
    with pytest.raises(UserError, match=r"conv1.weight is .* in the file and absent in SmallResNet"):
        load_weights(SmallResNet(), Path("resnet18.pth"))
    torch.save(SmallResNet(), "pickled.pth")
    Path("text.pth").write_text("no weights")
    torch.save({"epoch": 3}, "empty.pth")
    for name, reason in {
        "pickled.pth": "contains more than tensors",
        "text.pth": "damaged",
        "empty.pth": "does not contain the state dict of a network",
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


def test_fine_tuning_on_an_image_folder(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Path("pets"), {"cat": 10, "dog": 10})
    pretrained = torchvision.models.resnet18()
    torch.save(pretrained.state_dict(), "resnet18.pth")
    configs = ["--config", str(CONFIGS / "folder.yaml"), "--config", str(CONFIGS / "with" / "finetune.yaml")]
    small = ["--data.root", "pets", "--data.image_size", "32", "--trainer.max_epochs", "1"]
    main(["fit", *configs, *small])
    run = Path("runs/folder+finetune/version_0")
    assert "l2sp" in capsys.readouterr().out
    data = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]
    assert (tuple(data["mean"]), tuple(data["std"])) == IMAGENET
    # The file is no longer needed: the checkpoint holds its weights, and the origin that L2-SP pulls towards.
    Path("resnet18.pth").unlink()
    main(["fit", *configs, *small, "--trainer.max_epochs", "2", "--ckpt_path", "last"])
    model = load(run)
    assert model.classes == ("cat", "dog")
    assert model.preprocess.mean.flatten().tolist() == pytest.approx(IMAGENET[0])
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    origin = checkpoint["regularizer"]["l2sp"]
    assert any(torch.equal(tensor, pretrained.conv1.weight) for tensor in origin.values())


def test_on_the_command_line(refused: Refused) -> None:
    fit = ["fit", *QUICK, "--trainer.max_epochs", "1"]
    assert "--model.weights: there is no file none.pth" in refused(
        *fit, "--model.weights", "none.pth", "--data.mean", "[0.5,0.5,0.5]", "--data.std", "[0.5,0.5,0.5]"
    )
    assert "--model.weights: give --data.mean and --data.std" in refused(*fit, "--model.weights", "none.pth")
    main([*fit, "--trainer.limit_train_batches", "1"])
    again = [*fit, "--model.weights", str(RUN / "checkpoints" / "best.ckpt"), "--trainer.limit_train_batches", "1"]
    main([*again, "--data.mean", "[0.5,0.5,0.5]", "--data.std", "[0.5,0.5,0.5]"])
