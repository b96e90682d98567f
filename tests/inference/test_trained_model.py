"""What was trained, used: load, predict, export, and the Python way."""

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor

from regularization import CIFAR10, Preprocess, SmallResNet, UserError, fit, load, sweep
from regularization.cli.main import main
from regularization.data.readers import read_digits
from regularization.inference.export import write_onnx, write_torch
from regularization.inference.trained_model import TrainedModel
from tests.conftest import CONFIGS
from tests.data.test_image_files import bomb
from tests.training.test_command import QUICK, RUN

Refused = Callable[..., str]


@pytest.fixture
def digits() -> TrainedModel:
    """A network that knows digits well enough."""
    main(["fit", *QUICK, "--trainer.max_epochs", "2"])
    return load(RUN)


def test_load_is_what_was_trained(digits: TrainedModel) -> None:
    images = read_digits(train=False)
    shares = digits(images.pixels)
    assert digits.classes == tuple("0123456789")
    assert not digits.training
    assert shares.dtype == torch.float32
    assert torch.allclose(shares.sum(dim=1), torch.ones(360), atol=1e-5)
    main(["test", *QUICK, "--ckpt_path", "best"])
    said = json.loads((RUN / "result.json").read_text())["test"]["test_accuracy"]
    assert (shares.argmax(dim=1) == images.labels).float().mean().item() == pytest.approx(said, abs=1e-6)
    by_hand = digits.network(digits.preprocess(images.pixels)).softmax(dim=1)
    assert torch.equal(shares, by_hand)


def test_load_refuses(digits: TrainedModel, refused: Refused) -> None:
    kept = torch.load(RUN / "checkpoints" / "best.ckpt", weights_only=True)
    del kept["serving"]
    torch.save(kept, "old.ckpt")
    with pytest.raises(UserError, match="does not hold its classes"):
        load("old.ckpt")
    kept["serving"] = {"classes": list("0123456789"), "preprocess": {"size": 8}}
    kept["config"]["model"]["network"]["class_path"] = "os.system"
    torch.save(kept, "foreign.ckpt")
    assert "wants to run os.system" in refused("predict", "--ckpt_path", "foreign.ckpt", "--images", ".")
    assert "there is no file" in refused("predict", "--ckpt_path", "absent.ckpt", "--images", ".")


class Unpickled:
    """A pickle that makes a folder when it is read, and is refused, in a way of its own, where only data is read."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("command", ["predict", "test"])
def test_a_network_can_fetch_no_code(command: str, digits: TrainedModel, refused: Refused) -> None:
    torch.save({"conv1.weight": Unpickled()}, "evil.pth")
    fetching: list[dict[str, Any]] = [
        {"pretrained": True, "pretrained_cfg": {"url": f"file://{Path.cwd()}/evil.pth"}},
        {"pretrained": True, "pretrained_cfg_overlay": {"file": "evil.pth"}},
        {"checkpoint_path": "evil.pth"},
    ]
    kept = torch.load(RUN / "checkpoints" / "best.ckpt", weights_only=True)
    for options in fetching:
        network = {"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t", **options}}
        kept["config"]["model"]["network"] = network
        torch.save(kept, "foreign.ckpt")
        args = ["--images", "."] if command == "predict" else []
        refused(command, "--ckpt_path", "foreign.ckpt", *args)
        assert not Path("owned").exists()
    network["init_args"] = {"model_name": "hf-hub:some/one"}
    torch.save(kept, "foreign.ckpt")
    assert "wants to fetch hf-hub:some/one" in refused(command, "--ckpt_path", "foreign.ckpt", *args)
    network.update(class_path="regularization.load", init_args={"checkpoint": "foreign.ckpt"})
    torch.save(kept, "foreign.ckpt")
    assert "wants to run regularization.load" in refused(command, "--ckpt_path", "foreign.ckpt", *args)


def test_a_checkpoint_that_makes_no_sense(digits: TrainedModel) -> None:
    kept = torch.load(RUN / "checkpoints" / "best.ckpt", weights_only=True)
    odd: list[dict[str, Any]]
    odd = [{"serving": 0}, {"serving": {"preprocess": {"sise": 3}}}, {"config": {}}, {"state_dict": {}}]
    for wrong in odd:
        torch.save(kept | wrong, "odd.ckpt")
        with pytest.raises(UserError, match="don't go together"):
            load("odd.ckpt")


def test_weights_are_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "IMAGENET1K_V1"}}
    network |= {"dict_kwargs": {"num_classes": 10}}
    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    kept = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    kept["config"]["model"]["network"] = network
    from torchvision.models import resnet18

    fresh = resnet18(num_classes=10)
    kept["state_dict"] = {f"network.{name}": tensor for name, tensor in fresh.state_dict().items()}
    torch.save(kept, "resnet.ckpt")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)  # must not be called
    assert torch.equal(load("resnet.ckpt").network.fc.weight, fresh.fc.weight)  # type: ignore[union-attr, arg-type]


def test_predict(digits: TrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    images = read_digits(train=False)
    Path("mine/inner").mkdir(parents=True)
    for place in range(30):
        pixels = images.pixels[place].movedim(0, -1).numpy()
        name = f"mine/{'inner/' if place % 2 else ''}{place:02d} ziffer ü{int(images.labels[place])}.png"
        Image.fromarray(pixels).save(name)
    Path("mine/text.png").write_text("no picture")
    Path("mine/bomb.png").write_bytes(bomb(30_000, 30_000))
    main(["predict", "--ckpt_path", str(RUN / "checkpoints" / "best.ckpt"), "--images", "mine", "mine/text.png"])
    said = capsys.readouterr()
    assert "refused: mine/text.png: not a picture" in said.err
    assert "refused: mine/bomb.png: more than 179 million pixels" in said.err
    assert "30 pictures named, 2 refused" in said.out
    with Path("predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    shares = digits(images.pixels[:30])
    assert list(rows[0])[:5] == ["file", "class", "probability", "class_2", "probability_2"]
    for row in rows:
        place = int(Path(row["file"]).name[:2])
        best = shares[place].topk(5)
        assert [row["class"], *(row[f"class_{n}"] for n in range(2, 6))] == [str(int(i)) for i in best.indices]
        assert float(row["probability"]) == pytest.approx(float(best.values[0]), abs=1e-4)
    with Image.open("predictions.png") as sheet:
        assert sheet.size[0] > 1000


def test_predict_refuses(digits: TrainedModel, refused: Refused) -> None:
    Path("empty").mkdir()
    Path("text.png").write_text("no picture")
    run = ["predict", "--ckpt_path", str(RUN), "--images"]
    assert "there is no nowhere" in refused(*run, "nowhere")
    assert "there are no pictures in empty" in refused(*run, "empty")
    with pytest.raises(SystemExit):
        main([*run, "text.png"])
    assert "ckpt_path" in refused("predict", "--images", "text.png")


def exported(model: TrainedModel, kind: str) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """The file's function, and the names in its metadata."""
    if kind == "torch":
        write_torch(model, Path("model.pt2"))
        names = {"classes": ""}
        module: Any = torch.export.load("model.pt2", extra_files=names).module()
        return module, json.loads(names["classes"])
    write_onnx(model, Path("model.onnx"))
    onnx.checker.check_model("model.onnx", full_check=True)
    session = onnxruntime.InferenceSession("model.onnx")
    names = session.get_modelmeta().custom_metadata_map
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]), json.loads(
        names["classes"]
    )


@pytest.mark.skipif(Version(torch.__version__) < Version("2.14"), reason="older exporters need sizes that are known")
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_an_exported_file_says_what_the_network_says(kind: str, cifar_root: str) -> None:
    torch.manual_seed(0)
    data = CIFAR10(root=cifar_root, image_size=40)
    data.setup("test")
    assert data.test_set is not None
    network = SmallResNet(width=8)
    network.train()
    for _ in range(20):  # batch norm's statistics, so that answers differ
        network(data.preprocess(data.test_set[0][torch.randint(0, 10_000, (64,))][0]))
    model = TrainedModel(network, Preprocess(40, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26), 44), data.test_set[0].classes)
    answer, names = exported(model, kind)
    assert tuple(names) == model.classes
    pixels = data.test_set[0][torch.arange(1000)][0]
    with torch.inference_mode():
        assert (answer(pixels) - model(pixels)).abs().max() < 1e-5
        # Other sizes, larger and smaller, wide and high.
        alike, largest = [], 0.0
        for height, width in ((96, 96), (20, 31), (44, 44), (75, 48), (224, 160)):
            resized = torch.nn.functional.interpolate(pixels[:200].float(), (height, width), mode="bicubic")
            other = resized.round().clamp(0, 255).to(torch.uint8)
            theirs, ours = answer(other), model(other)
            alike += (theirs.argmax(1) == ours.argmax(1)).tolist()
            largest = max(largest, float((theirs - ours).abs().max()))
    assert np.mean(alike) >= 0.999
    assert largest < 1e-4


@pytest.mark.skipif(Version(torch.__version__) < Version("2.14"), reason="older exporters need sizes that are known")
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_the_command_export(kind: str, digits: TrainedModel, capsys: pytest.CaptureFixture[str]) -> None:
    suffix = {"onnx": "onnx", "torch": "pt2"}[kind]
    main(["export", "--ckpt_path", str(RUN), "--format", kind, "--output", f"out/digits.{suffix}"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"out/digits.{suffix}: ")
    assert float(said[1].rpartition(" ")[2]) < 1e-5
    assert [path.name for path in Path("out").iterdir()] == [f"digits.{suffix}"]


def test_the_python_way() -> None:
    run = fit(
        CONFIGS / "quickstart.yaml", trainer__max_epochs=2, model__optimizer__weight_decay=1e-3, data__val_size=300
    )
    assert run.folder.name == "version_0"
    assert run.weight_decay == 1e-3
    assert len(run.rows) == 2
    assert run.accuracy == run.rows[-1]["val_accuracy"]
    more = fit(CONFIGS / "quickstart.yaml", trainer__max_epochs=3, ckpt_path="last")
    assert (more.folder, len(more.rows), more.weight_decay) == (run.folder, 3, 5e-4)
    with pytest.raises(UserError, match=r"did you mean trainer\.max_epochs"):
        fit(CONFIGS / "quickstart.yaml", trainer__max_epochz=2)
    alone = fit(CONFIGS / "quickstart.yaml", trainer__max_epochs=1, data__val_size=None, test="last")
    assert math.isnan(alone.accuracy)
    assert alone.checkpoint.name == "last.ckpt"
    assert alone.test_accuracy == pytest.approx(0.9, abs=0.1)
    pixels = read_digits(train=False).pixels
    assert load(more.checkpoint)(pixels[:5]).shape == (5, 10)


@pytest.mark.slow
def test_a_sweep_from_a_script_without_a_guard() -> None:
    """Worker processes must not run the script that they were started from."""
    import subprocess
    import sys

    config = str(CONFIGS / "sweeps" / "quickstart.yaml")
    Path("script.py").write_text(
        "from regularization import sweep\n"
        f"answer = sweep({config!r}, workers=2, seeds=1, trainer__max_epochs=1)\n"
        "open('ran', 'a').write('x')\n"
        "print([arm.name for arm in answer.arms], answer.chosen.mean)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert "'weight_decay=0.1']" in done.stdout.splitlines()[-1]
    assert Path("ran").read_text() == "x"


def test_a_described_sweep_has_no_answer() -> None:
    with pytest.raises(UserError, match="dry_run"):
        sweep(CONFIGS / "sweeps" / "quickstart.yaml", dry_run=True)
