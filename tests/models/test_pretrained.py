"""Weights from a file on disk: loaded, rejected, and the normalization that belongs to them."""

import argparse
import functools
import sys
import types
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from jsonargparse import dict_to_namespace
from timm.layers.pos_embed import resample_abs_pos_embed

from regularization import SmallResNet, UserError, load
from regularization.cli.main import main
from regularization.models.pretrained import load_weights, published_normalization, resample_position_embeddings
from tests.conftest import CONFIGS
from tests.data.test_image_folder import draw
from tests.training.test_command import QUICK, RUN

Refused = Callable[..., str]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_loads_all_but_the_last_layer() -> None:
    torch.save(SmallResNet(num_classes=7, width=8).state_dict(), "seven.pth")
    network = SmallResNet(num_classes=3, width=8)
    head = network.head.weight.clone()
    assert load_weights(network, Path("seven.pth")).missing == ["head.weight", "head.bias"]
    loaded = torch.load("seven.pth", weights_only=True)
    assert torch.equal(network.stem.weight, loaded["stem.weight"])
    assert torch.equal(network.head.weight, head)
    assert load_weights(SmallResNet(num_classes=7, width=8), Path("seven.pth")).missing == []


def test_checkpoints_and_safetensors() -> None:
    from safetensors.torch import save_file

    saved = SmallResNet(width=8).state_dict()
    save_file(saved, "a.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in saved.items()}}, "b.pth")
    for file in ("a.safetensors", "b.pth"):
        network = SmallResNet(width=8)
        assert load_weights(network, Path(file)).missing == []
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


@pytest.mark.parametrize("container", ["", "model", "state_dict", "model_state_dict", "state_dict_ema", "a/b"])
@pytest.mark.parametrize("prefix", ["model.", "module._orig_mod.", "net.backbone.", "model.encoder.module.", "a.b.c."])
def test_weights_under_any_prefix_and_key(container: str, prefix: str) -> None:
    saved = SmallResNet(num_classes=7, width=4).state_dict()
    content: Any = {f"{prefix}{name}": tensor for name, tensor in saved.items()}
    content |= {"criterion.weight": torch.ones(7), "projector.0.weight": torch.ones(2, 2)}
    for key in filter(None, reversed(container.split("/"))):
        content = {"epoch": 3, key: content}
    torch.save(content, "weights.pth")
    network = SmallResNet(num_classes=3, width=4)
    loaded = load_weights(network, Path("weights.pth"))
    assert loaded.prefix == prefix
    assert loaded.missing == ["head.weight", "head.bias"]
    assert loaded.left == [f"{prefix}head.weight", f"{prefix}head.bias", "criterion.weight", "projector.0.weight"]
    own = network.state_dict()
    assert all(torch.equal(own[name], saved[name]) for name in own if not name.startswith("head"))


class Foreign:
    """A class of another program. Loading a checkpoint that names it must neither need nor run it."""

    def __reduce__(self) -> Any:
        return open, ("evidence", "w")


def test_checkpoints_of_other_programs_need_none_of_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    saved, averaged = (SmallResNet(width=4).state_dict() for _ in range(2))
    module = types.ModuleType("program_that_is_not_installed")
    options = type("Options", (dict,), {"__module__": module.__name__, "__qualname__": "Options"})
    vars(module)["Options"] = options
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        content = {
            "state_dict": {f"model.{name}": tensor for name, tensor in saved.items()},
            "best": np.float64(0.9),
            "history": np.arange(3.0),
            "args": argparse.Namespace(lr=0.1, device=torch.device("cpu")),
            "hyper_parameters": options(lr=0.1),
            "counts": defaultdict(list, {"a": [1]}),
            "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
            "foreign": Foreign(),
        }
        torch.save(content, "lightning.ckpt")
        torch.save(content | {"state_dict_ema": averaged}, "timm.pth.tar")
    for file, expected in {"lightning.ckpt": saved, "timm.pth.tar": averaged}.items():
        network = SmallResNet(width=4)
        load_weights(network, Path(file))
        assert torch.equal(network.head.weight, expected["head.weight"])
    assert not Path("evidence").exists()


def test_safetensors_under_another_suffix() -> None:
    from safetensors.torch import save_file

    saved = SmallResNet(width=4).state_dict()
    save_file(saved, "pytorch_model.bin")
    torch.save(saved, "model.safetensors")
    for file in ("pytorch_model.bin", "model.safetensors"):
        network = SmallResNet(width=4)
        load_weights(network, Path(file))
        assert torch.equal(network.head.weight, saved["head.weight"])


def test_deeper_networks_and_auxiliary_heads() -> None:
    torch.save(torchvision.models.resnet34(num_classes=2).state_dict(), "resnet34.pth")
    with pytest.raises(UserError, match=r"another network: layer1.2.conv1.weight is .* and absent in ResNet"):
        load_weights(torchvision.models.resnet18(num_classes=2), Path("resnet34.pth"))
    with torch.device("meta"):
        inception = torchvision.models.googlenet(num_classes=3, init_weights=False)
    weights = {name: torch.zeros(tensor.shape) for name, tensor in inception.state_dict().items()}
    torch.save(weights, "googlenet.pth")
    other = torchvision.models.googlenet(num_classes=5, init_weights=False)
    assert load_weights(other, Path("googlenet.pth")).missing == [
        f"{layer}.{kind}" for layer in ("aux1.fc2", "aux2.fc2", "fc") for kind in ("weight", "bias")
    ]


@pytest.mark.parametrize("tokens", [0, 1, 2, 5])
def test_position_embeddings_are_resampled_as_timm_does(tokens: int) -> None:
    old = torch.randn(1, tokens + 14 * 14, 8)
    own = {"encoder.pos_embedding": torch.zeros(1, tokens + 4 * 4, 8)}
    resampled = resample_position_embeddings({"encoder.pos_embedding": old}, own)["encoder.pos_embedding"]
    reference = resample_abs_pos_embed(old, [4, 4], num_prefix_tokens=tokens)
    assert torch.allclose(resampled, reference, atol=1e-6)


def test_transformers_for_another_image_size() -> None:
    def vision_transformer(image_size: int, classes: int) -> torchvision.models.VisionTransformer:
        return torchvision.models.VisionTransformer(image_size, 16, 1, 2, 8, 16, num_classes=classes)

    torch.save(vision_transformer(224, 1000).state_dict(), "vit.pth")
    loaded = load_weights(vision_transformer(64, 2), Path("vit.pth"))
    assert loaded.resampled == ["encoder.pos_embedding"]
    assert loaded.missing == ["heads.head.weight", "heads.head.bias"]
    tiny: dict[str, Any] = {"depth": 1, "embed_dim": 24}
    torch.save(timm.create_model("vit_tiny_patch16_224", **tiny).state_dict(), "timm.pth")
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=2, **tiny)
    assert load_weights(network, Path("timm.pth")).resampled == ["pos_embed"]
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


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
    out = capsys.readouterr().out
    assert "l2sp" in out
    assert "resnet18.pth: 120 tensors loaded; not in the file, left as they were: fc.weight, fc.bias; " in out
    assert "images normalized with mean [0.485, 0.456, 0.406] and std [0.229, 0.224, 0.225]" in out
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
