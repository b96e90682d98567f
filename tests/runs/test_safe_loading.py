"""Attacks by a checkpoint on the user who loads it: pickles and class paths that would run code."""

import copy
import json
import os
import runpy
import shutil
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
import yaml
from jsonargparse import _common, _optionals

from regularization import UserError, load
from regularization.cli.main import main
from regularization.runs import safe_loading
from regularization.training.training_cli import TrainingCLI
from tests.conftest import CONFIGS
from tests.training.test_command import QUICK, RUN, Refused

LAST = RUN / "checkpoints" / "last.ckpt"
SHORT = (*QUICK, "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs`` with a run of one epoch, to be copied into the folder of a test."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["fit", *SHORT])
    return folder / "runs"


class Bomb:
    """Its pickle creates a folder when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_malicious_pickle_does_not_run(trained: Path, command: str, refused: Refused) -> None:
    shutil.copytree(trained, "runs")
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
    trained: Path, attack: dict[str, Any], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("evil.py").write_text(EVIL)
    Path("sub.yaml").write_text("class_path: evil.Net")
    fsspec.filesystem("memory").pipe("/sub.yaml", b"class_path: evil.Net")
    monkeypatch.syspath_prepend(os.getcwd())
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    for section, changes in attack.items():
        content["config"][section] = {**(content["config"].get(section) or {}), **changes}
    torch.save(content, LAST)
    unused = "callbacks" in attack or "logger" in attack.get("trainer", {})
    for command in ("fit",) if unused else ("fit", "test"):
        message = refused(command, "--ckpt_path", str(LAST))
        assert "evil" in message or "sub.yaml" in message, message
    if unused:  # scoring does not create the object
        main(["validate", "--ckpt_path", str(LAST)])
    assert not Path("attacked").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dataset": "evil.Net"}, "evil.Net"),
        ({"dataset": "torchvision.datasets.folder.default_loader"}, "default_loader"),
        ({"dataset": "torchvision.datasets.LSUN"}, "LSUN is not supported"),
        ({"dataset": "torchvision.datasets.lsun.LSUNClass"}, "LSUN is not supported"),
        ({"dataset": "FakeData", "options": {"size": "/etc/passwd"}}, "the text '/etc/passwd'"),
        ({"dataset": "FakeData", "options": {"size": {"class_path": "evil.Net"}}}, "evil.Net"),
    ],
)
def test_data_sets_that_a_checkpoint_may_not_describe(
    trained: Path, options: dict[str, Any], reason: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(os.getcwd())
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    content["config"]["data"] = {"class_path": "regularization.TorchvisionData", "init_args": options}
    torch.save(content, LAST)
    assert reason in refused("test", "--ckpt_path", str(LAST))
    assert not Path("attacked").exists()


def test_the_name_of_a_file_is_no_class_of_the_user(
    trained: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of someone else, the user runs ``python -m regularization test --ckpt_path model.ckpt``."""
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    content["config"]["model"]["network"] = {"class_path": "model.ckpt.Net"}
    Path("model").mkdir()
    Path("model/__init__.py").touch()
    Path("model/ckpt.py").write_text(EVIL)
    torch.save(content, "model.ckpt")
    monkeypatch.syspath_prepend(os.getcwd())
    for command in ("test", "validate", "fit"):
        assert "the checkpoint names model.ckpt.Net" in refused(command, "--ckpt_path", "model.ckpt")
    assert "the checkpoint names model.ckpt.Net" in refused("predict", "--ckpt_path", "model.ckpt", "--images", ".")
    assert not any(name.startswith("model") for name in sys.modules)


def test_a_package_that_is_trusted_is_not_taken_from_the_working_directory(
    trained: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is absent, as timm may be."""
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    content["config"]["model"]["network"] = {"class_path": "planted.Net"}
    torch.save(content, LAST)
    Path("planted.py").write_text(EVIL)
    monkeypatch.syspath_prepend(os.getcwd())
    monkeypatch.setattr(safe_loading, "TRUSTED", [*safe_loading.TRUSTED, "planted"])
    before = list(sys.path)
    assert "there is no module planted" in refused("test", "--ckpt_path", str(LAST))
    assert sys.path == before
    assert "planted" not in sys.modules


def test_installed_packages_come_before_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [os.getcwd(), *sys.path])
    monkeypatch.setattr(sys, "argv", ["regularization", "--version"])
    runpy.run_module("regularization", run_name="__main__")
    assert os.getcwd() == sys.path[-1]
    assert os.getcwd() != sys.path[0]


def test_a_file_named_like_a_value_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of ``--trainer.strategy`` is auto, which a parser could take for the name of a config file."""
    Path("evil.py").write_text(EVIL)
    for name in ("auto", "cpu", "SGD"):
        Path(name).write_text("class_path: evil.Net")
    monkeypatch.syspath_prepend(os.getcwd())
    main(["fit", *SHORT, "--trainer.strategy", "auto", "--model.optimizer", "SGD"])
    main(["validate", "--ckpt_path", str(LAST)])
    assert "evil" not in sys.modules
    assert not Path("attacked").exists()


DOWNLOAD = {"pretrained": True, "pretrained_cfg": {"url": "http://127.0.0.1:9/weights.pth"}}
TIMM = {"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t", **DOWNLOAD}}


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (json.dumps(TIMM), "where a plain value belongs"),
        (yaml.safe_dump(TIMM), "where a plain value belongs"),
        ({"class_path": json.dumps(TIMM)}, "where a plain value belongs"),
        ("-", "where a plain value belongs"),
        ({"class_path": "torch.nn.Identity", "dict_kwargs": {"x": json.dumps(TIMM)}}, "where a plain value belongs"),
        # By default, these load weights for a part of the network.
        ({"class_path": "torchvision.models.detection.fasterrcnn_resnet50_fpn"}, "nor an image classifier"),
        ({"class_path": "torchvision.models.segmentation.fcn_resnet50"}, "nor an image classifier"),
        ({"class_path": "torchvision.models.get_model", "init_args": {"name": "fcn_resnet50"}}, "nor an image class"),
        (
            {"class_path": "timm.create_model", "init_args": {"model_name": "hf-hub:some/one"}},
            "wants to download hf-hub:some/one",
        ),
        (
            {
                "class_path": "timm.create_model",
                "init_args": {"model_name": "resnet10t"},
                "dict_kwargs": {"features_only": True},
            },
            "the argument features_only, which is not one of the network itself",
        ),
        (
            {
                "class_path": "timm.create_model",
                "init_args": {"model_name": "resnet10t"},
                "dict_kwargs": {"act_layer": "http://127.0.0.1:9/"},
            },
            "gives timm.create_model the text 'http://127.0.0.1:9/'",
        ),
        (
            {
                "class_path": "timm.create_model",
                "init_args": {"model_name": "resnet10t"},
                "dict_kwargs": {"act_layer": {"class_path": "subprocess.Popen", "init_args": {"args": "true"}}},
            },
            "names subprocess.Popen",
        ),
        ({"class_path": "torch.optim.lr_scheduler.LambdaLR"}, "LambdaLR"),
        ([1, 2], "Not a valid subclass of Module"),
        ("\ud800", "where a plain value belongs"),
    ],
)
def test_networks_that_a_checkpoint_may_not_describe(network: Any, reason: str) -> None:
    content = {**CONTENT, "config": {"model": {"network": network}}}
    torch.save(content, "odd.ckpt")
    with pytest.raises(UserError) as error:
        load("odd.ckpt")
    assert reason in str(error.value)


CONTENT: dict[str, Any] = {
    "epoch": 0,
    "global_step": 1,
    "pytorch-lightning_version": "2.6.6",
    "state_dict": {},
    "settings": {},
    "serving": {"classes": ["a"], "preprocess": {"size": 8, "resize": 8, "mean": [0.5] * 3, "std": [0.5] * 3}},
}


@pytest.mark.parametrize(
    "network",
    [
        {"class_path": "torchvision.models.resnet18", "init_args": {"weights": "IMAGENET1K_V1", "progress": False}},
        {"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t.c3_in1k", **DOWNLOAD}},
        {"class_path": "timm.models.resnet10t", "init_args": {"pretrained": True}},
    ],
)
def test_networks_load_no_weights(network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that say where the first weights came from stay in the config of a run; they have no effect on it."""

    def no_network(*_: Any) -> None:
        pytest.fail("a connection")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    network["dict_kwargs"] = {"num_classes": 1}
    if network["class_path"].startswith("timm"):
        network["dict_kwargs"] |= {"act_layer": "silu", "drop_rate": 0.5}
    module = build_network(network)
    state = {f"network.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({**CONTENT, "config": {"model": {"network": network}}, "state_dict": state}, "classifier.ckpt")
    loaded = load("classifier.ckpt").network
    assert all(torch.equal(tensor, state[f"network.{name}"]) for name, tensor in loaded.state_dict().items())
    if network["class_path"].startswith("timm"):
        assert any(isinstance(part, torch.nn.SiLU) for part in loaded.modules())
        assert loaded.drop_rate == 0.5


def build_network(network: dict[str, Any]) -> torch.nn.Module:
    """Builds the network directly with its library."""
    import timm
    import torchvision

    if network["class_path"].startswith("timm"):
        module: torch.nn.Module = timm.create_model("resnet10t", **network["dict_kwargs"])
        return module
    resnet: torch.nn.Module = torchvision.models.resnet18(num_classes=1)
    return resnet


def test_places_come_from_a_run_of_this_folder_alone(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    content["config"]["trainer"] |= {"default_root_dir": "planted", "devices": 7, "profiler": "advanced"}
    content["config"]["model"] |= {"weights": "planted.pth", "compile": True, "label_smoothing": 0.25}
    content["config"]["data"] = {"class_path": "regularization.CIFAR10", "init_args": {"root": "planted"}}
    content["config"]["data"]["init_args"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    # Options that apply to a single start are only taken from the user.
    content["config"] |= {"threads": 3, "test": "best", "trust": True, "config": "planted.yaml", "ckpt_path": "x"}
    torch.save(content, LAST)
    torch.save(content, "model.ckpt")
    cli = TrainingCLI("test", ["--ckpt_path", "model.ckpt"])
    trainer, model, data = cli.config.trainer, cli.config.model, cli.config.data
    assert (trainer.default_root_dir, trainer.devices, trainer.profiler) == ("runs", 1, None)
    assert (model.weights, model.compile, model.label_smoothing) == (None, False, 0.25)
    assert (data.class_path, data.init_args.root) == ("regularization.CIFAR10", None)
    assert (cli.config.threads, cli.config.test, cli.config.trust) == (None, None, False)
    cli = TrainingCLI("test", ["--ckpt_path", str(LAST)])
    trainer, data = cli.config.trainer, cli.config.data
    assert (str(trainer.default_root_dir), trainer.devices, data.init_args.root) == ("planted", 7, "planted")
    # The user's own runs are in the folder of runs. If that is another folder, the same run is treated as foreign.
    cli = TrainingCLI("test", ["--ckpt_path", str(LAST), "--trainer.default_root_dir", "elsewhere"])
    assert (cli.config.trainer.devices, cli.config.data.init_args.root) == (1, None)
    cli = TrainingCLI("test", ["--ckpt_path", "model.ckpt", "--data.root", "mine", "--trainer.devices", "2"])
    assert (str(cli.config.trainer.devices), cli.config.data.init_args.root) == ("2", "mine")


@pytest.mark.filterwarnings("ignore:model.ckpt is from no run in this folder")
def test_places_are_not_taken_from_a_trusted_checkpoint_of_another_folder(trained: Path) -> None:
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    content["config"]["trainer"] |= {"default_root_dir": "planted", "devices": 7}
    content["config"] |= {"threads": 3, "test": "best"}
    torch.save(content, LAST)
    torch.save(content, "model.ckpt")
    cli = TrainingCLI("test", ["--ckpt_path", "model.ckpt", "--trust"])
    assert (cli.config.trainer.default_root_dir, cli.config.trainer.devices) == ("runs", 1)
    assert (cli.config.threads, cli.config.test, cli.config.trust) == (None, None, True)
    cli = TrainingCLI("test", ["--ckpt_path", str(LAST), "--trust"])
    assert (cli.config.trainer.devices, cli.config.test) == (7, None)


def test_what_is_not_taken_from_a_checkpoint_is_named(trained: Path) -> None:
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    content["config"]["data"] = {"class_path": "regularization.CIFAR10", "init_args": {"root": "planted"}}
    torch.save(content, "model.ckpt")
    with pytest.warns(UserWarning, match=r"model.ckpt is from no run in this folder: data.root not taken from it"):
        TrainingCLI("test", ["--ckpt_path", "model.ckpt"])


def test_a_class_runs_with_trust_or_when_the_user_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text(
        "from regularization import SmallResNet\n\n\nclass Net(SmallResNet):\n"
        "    def __init__(self, num_classes: int = 10) -> None:\n        super().__init__(num_classes, width=4)\n"
    )
    monkeypatch.syspath_prepend(os.getcwd())
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test has a module of this name
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
def test_names_that_are_not_trusted(trained: Path, name: str, refused: Refused) -> None:
    shutil.copytree(trained, "runs")
    content = torch.load(LAST, weights_only=True)
    for option in ("optimizer", "callback"):
        changed = copy.deepcopy(content)
        if option == "callback":
            changed["config"]["callbacks"] = {"x": {"class_path": name}}
        else:
            changed["config"]["model"]["optimizer"] = {"class_path": name}
        torch.save(changed, LAST)
        # Scoring creates no callbacks.
        message = refused("fit" if option == "callback" else "validate", "--ckpt_path", str(LAST))
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


def test_the_restriction_ends_with_the_command(trained: Path) -> None:
    shutil.copytree(trained, "runs")
    before = dict(_common.parsing_settings), _optionals._config_read_mode
    main(["validate", "--ckpt_path", str(LAST)])
    with pytest.raises(SystemExit):
        main(["validate", "--ckpt_path", str(LAST), "--model.network.widht", "3"])
    assert (_common.parsing_settings, _optionals._config_read_mode) == before


def test_trusted_modules_of_the_program() -> None:
    modules = [name for name in safe_loading.TRUSTED if name.startswith("regularization.") and name.count(".") >= 2]
    assert modules == [
        "regularization.callbacks.averaging",
        "regularization.data.augmentation.augment",
        "regularization.data.augmentation.policies",
        "regularization.data.datamodules",
        "regularization.data.datasets.arrays",
        "regularization.data.datasets.hugging_face",
        "regularization.data.datasets.torchvision_data",
        "regularization.data.image_data",
        "regularization.data.image_folder",
        "regularization.data.preprocess",
        "regularization.models.classifier",
        "regularization.models.networks",
        "regularization.optim.function_penalties",
        "regularization.optim.muon",
        "regularization.optim.penalties",
        "regularization.optim.references",
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
        "references": ["regularization.penalties.L2SP", "regularization.optim.penalties.L2SP"],
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
        "references": ["regularization.optim.references.L2SP"] * 2,
        "data": "regularization.data.datamodules.Digits",
        "folder": "regularization.data.image_folder.ImageFolder",
        "schedule": "regularization.Linear",
        "callback": "regularization.callbacks.averaging.EMA",
        "other": ["regularization.penaltiesX.L1", "mine.regularization.penalties.L1", "regularization.penalties"],
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("callbacks", {"History": {"rows": 3, "epoch": [1]}}),
        ("Digits", -1),
        ("optimizer_states", [3]),
        ("lr_schedulers", [3]),
        ("pytorch-lightning_version", "none"),
    ],
)
def test_a_state_that_cannot_be_restored(key: str, value: Any, trained: Path, refused: Refused) -> None:
    content = torch.load(trained / "quickstart" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({**content, key: value}, "odd.ckpt")
    short = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    message = refused("fit", "--ckpt_path", "odd.ckpt", *short)
    assert "odd.ckpt cannot be continued or scored: " in message
