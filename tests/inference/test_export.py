"""Exported files give the network's probabilities."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from packaging.version import Version
from torch import Tensor

from regularization import CIFAR10, Preprocess, SmallResNet
from regularization.cli.main import main
from regularization.inference.export import write_onnx, write_torch
from regularization.inference.trained_model import TrainedModel
from tests.training.test_command import RUN, Refused

needs_dynamic_sizes = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.14"), reason="older exporters need image sizes that are known"
)


def exported(model: TrainedModel, file_format: str) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """The function in an exported file, and the class names in its metadata."""
    if file_format == "torch":
        write_torch(model, Path("model.pt2"))
        metadata = {"classes": ""}
        module: Any = torch.export.load("model.pt2", extra_files=metadata).module()
        return module, json.loads(metadata["classes"])
    write_onnx(model, Path("model.onnx"))
    onnx.checker.check_model("model.onnx", full_check=True)
    session = onnxruntime.InferenceSession("model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", len(model.classes)]
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]), classes


@needs_dynamic_sizes
@pytest.mark.parametrize("file_format", ["onnx", "torch"])
def test_an_exported_file_predicts_like_the_network(file_format: str, cifar_root: str) -> None:
    torch.manual_seed(0)
    data = CIFAR10(root=cifar_root, image_size=40)
    data.setup("test")
    assert data.test_set is not None
    network = SmallResNet(width=8)
    network.train()
    for _ in range(20):  # update the statistics of batch norm, so that predictions differ
        network(data.preprocess(data.test_set[0][torch.randint(0, 10_000, (64,))][0]))
    model = TrainedModel(network, Preprocess(40, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), 44), data.test_set[0].classes)
    function, classes = exported(model, file_format)
    assert tuple(classes) == model.classes
    pixels = data.test_set[0][torch.arange(1000)][0]
    with torch.inference_mode():
        assert (function(pixels) - model(pixels)).abs().max() < 1e-5
        # Other sizes: larger and smaller, wide and high.
        equal_classes, largest = [], 0.0
        for height, width in ((96, 96), (20, 31), (44, 44), (75, 48), (224, 160)):
            resized = torch.nn.functional.interpolate(pixels[:200].float(), (height, width), mode="bicubic")
            images = resized.round().clamp(0, 255).to(torch.uint8)
            actual, expected = function(images), model(images)
            equal_classes += (actual.argmax(1) == expected.argmax(1)).tolist()
            largest = max(largest, float((actual - expected).abs().max()))
    assert np.mean(equal_classes) >= 0.999
    assert largest < 1e-4


@needs_dynamic_sizes
@pytest.mark.parametrize(("file_format", "suffix"), [("onnx", "onnx"), ("torch", "pt2")])
def test_the_command_export(
    file_format: str, suffix: str, digits: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", "--ckpt_path", str(RUN), "--format", file_format, "--output", f"out/digits.{suffix}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith(f"out/digits.{suffix}: ")
    text, _, difference = lines[-1].rpartition(" ")
    assert text == "largest difference from the checkpoint's probabilities, on 8 random images:"
    assert float(difference) < 1e-5
    assert [path.name for path in Path("out").iterdir()] == [f"digits.{suffix}"]


def test_a_full_disk_is_not_taken_for_a_network_that_cannot_be_exported(
    digits: TrainedModel, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError(
            "PytorchStreamWriter failed writing file data/0: file write failed\n(at inline_container.cc)"
        )

    monkeypatch.setattr(torch.export, "save", full)
    message = refused("export", "--ckpt_path", str(RUN), "--format", "torch", "--output", "x.pt2")
    assert message == "error: cannot write x.pt2: PytorchStreamWriter failed writing file data/0: file write failed\n"


def test_what_export_refuses(digits: TrainedModel, refused: Refused) -> None:
    Path("folder").mkdir()
    Path("file").write_text("not a folder")
    run = ["export", "--ckpt_path", str(RUN), "--output"]
    assert "--output: folder is a folder, not a file" in refused(*run, "folder")
    assert "--output: file is a file, not a folder" in refused(*run, "file/x.onnx")
