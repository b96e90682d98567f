"""Five hundred attacks by the config in a checkpoint: no code is run, no file is made or read, nothing is requested.

Each attack replaces one option of a checkpoint's config by a value that names code, a file or an address, in one of
the notations that a parser would understand. The checkpoints are loaded in a folder with modules and files that someone
else has placed there. Python's audit events record what happens.
"""

import copy
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml

from regularization import UserError, load
from regularization.cli.main import main
from regularization.training.training_cli import TrainingCLI
from tests.training.test_command import QUICK, RUN

Config = dict[str, Any]

ATTACKS = 500
# Packages that someone else has placed in the folder. The last ones are optional packages of torch, timm and Lightning,
# which are not installed here.
PLANTED = ("evil", "model", "apex", "functorch_planted", "deepspeed", "comet_ml", "neptune", "bitsandbytes")
BAIT = ("sub.yaml", "net.json", "weights.pth", "SGD", "auto", "relu", "ones", "resnet10t", "torch.optim.SGD", "cpu")
MODULE = """
import os
import torch

os.mkdir("attacked")


class Net(torch.nn.Module):
    chain = os

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        os.mkdir("attacked")


def function(*args: object) -> torch.nn.Module:
    os.mkdir("attacked")
    return torch.nn.Identity()
"""
# The code that jsonargparse runs in another interpreter.
FIND_STUBS = "import sys, json; print(json.dumps(sys.path))"

recorded: list[str] = []
watched: list[Path] = []  # the folder while attacks are loaded, otherwise empty: an audit hook cannot be removed


def record(event: str, args: tuple[Any, ...]) -> None:
    """Keeps the audit events that a checkpoint must not cause."""
    if not watched:
        return
    if event == "open" and isinstance(args[0], str | bytes):
        path, writes = Path(os.fsdecode(args[0])).absolute(), args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        is_placed = path.is_relative_to(watched[0]) and path.name != "attack.ckpt" and "runs" not in path.parts
        if writes or is_placed:
            recorded.append(f"open {path}")
    elif event == "subprocess.Popen" and args[1][1:] == ["-c", FIND_STUBS]:
        pass  # jsonargparse finds the stubs of packages; json.py is planted for this interpreter
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.mkdir", "os.exec"):
        recorded.append(f"{event} {args}")


@pytest.fixture
def address() -> Iterator[str]:
    """A local web server, whose requests are recorded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            recorded.append(f"request {self.path}")
            self.send_error(404)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the modules and files; it is on the search path, as after ``python -m``."""
    for name in PLANTED:
        Path(name).mkdir()
        (Path(name) / "__init__.py").write_text(MODULE)
        (Path(name) / "ckpt.py").write_text(MODULE)
    Path("json.py").write_text("import os\n\nos.mkdir('attacked')")
    for name in BAIT:
        Path(name).write_text("class_path: evil.Net")
    torch.save({"conv1.weight": torch.zeros(3)}, "weights.pth")
    monkeypatch.syspath_prepend(os.getcwd())
    return Path.cwd()


def names(some: random.Random) -> str:
    """A name that refers to code."""
    return some.choice(
        [
            *(f"{module}.{name}" for module in PLANTED for name in ("Net", "ckpt.Net", "function")),
            "evil.Net.chain.system",
            "os.system",
            "os.mkdir",
            "builtins.eval",
            "subprocess.Popen",
            "torch.hub.load",
            "torch.load",
            "torch.utils.cpp_extension.load",
            "torch.nn.functional.warnings.warn",
            "torch.nn.Module.__init__.__globals__",
            "torchvision.models.resnet.load_state_dict_from_url",
            "torchvision.models.detection.fasterrcnn_resnet50_fpn",
            "torchvision.models.segmentation.fcn_resnet50",
            "torchvision.models.get_model",
            "timm.models.load_checkpoint",
            "timm.models._hub.load_model_config_from_hf",
            "timm.models.build_model_with_cfg",
            "regularization.load",
            "regularization.fit",
            "regularization.runs.directory.write_text",
            "regularization.runs.directory.os.mkdir",
            "lightning.pytorch.callbacks.ModelCheckpoint",
            "lightning.pytorch.loggers.CSVLogger",
        ]
    )


def places(some: random.Random, address: str) -> str:
    """A file or an address."""
    here = Path.cwd()
    addresses = [f"{address}/{name}" for name in BAIT[:3]]
    files = [name for bait in BAIT for name in (bait, f"./{bait}", f"{here}/{bait}", f"file://{here}/{bait}")]
    others = ["memory://sub.yaml", "~/.bashrc", "/etc/passwd", "../../etc", "-", "/dev/stdin", "hf-hub:some/one"]
    return some.choice([*addresses, *files, *others, f"local-dir:{here}", f"s3://{address[7:]}/x"])


def loading(some: random.Random, address: str) -> Config:
    """A trusted function with arguments that make it read a file or an address."""
    place = places(some, address)
    arguments: Config = some.choice(
        [
            {"pretrained": True, "pretrained_cfg": {"url": f"{address}/weights.pth", "architecture": "resnet10t"}},
            {"pretrained": True, "pretrained_cfg": {"file": "weights.pth"}},
            {"pretrained": True, "pretrained_cfg_overlay": {"url": place}},
            {"pretrained": True, "cache_dir": "planted_cache"},
            {"checkpoint_path": place},
            {"weights": "DEFAULT"},
            {"weights": place},
            {"block_args": {"class_path": names(some)}},
            {"act_layer": {"class_path": names(some), "init_args": {"path": place}}},
            {"norm_layer": names(some)},
            {"features_only": True, "pretrained_strict": False, "kwargs_filter": names(some)},
        ]
    )
    path = some.choice(
        ["timm.create_model", "timm.models.resnet10t", "torchvision.models.resnet18", "torchvision.models.get_model"]
    )
    if path == "timm.create_model":
        arguments["model_name"] = some.choice(["resnet10t", "resnet10t", place])
    if path == "torchvision.models.get_model":
        arguments["name"] = "resnet18"
    return {"class_path": path, some.choice(["init_args", "dict_kwargs"]): arguments}


def payload(some: random.Random, address: str) -> Any:
    """Code, a file or an address in its plain notation."""
    kind = some.randrange(5)
    if kind == 0:
        return names(some)
    if kind == 1:
        return places(some, address)
    if kind == 2:
        return {"class_path": names(some), "init_args": {"path": places(some, address), "mode": 511}}
    return loading(some, address)


def disguised(value: Any, some: random.Random) -> Any:
    """``value`` in another notation: as text, list, class with arguments, under the key of a nested option."""
    forms: list[Callable[[Any], Any]] = [
        lambda it: it,
        json.dumps,
        lambda it: yaml.safe_dump(it, default_flow_style=False),
        lambda it: [it],
        lambda it: f"[{json.dumps(it)}]",
        lambda it: {"class_path": it},
        lambda it: {"class_path": "torch.nn.Identity", "dict_kwargs": {"x": it}},
        lambda it: {"class_path": "timm.create_model", "dict_kwargs": {"model_name": "resnet10t", "act_layer": it}},
        lambda it: {"class_path": "torchvision.models.ResNet", "init_args": resnet | {"norm_layer": it}},
        lambda it: {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": it}},
        lambda it: {"init_args": {"width": it}},
        lambda it: {"__path__": it, "class_path": it if isinstance(it, str) else "evil.Net"},
        lambda it: {"first": it, "second": {"class_path": it}},
    ]
    resnet = {"block": "torchvision.models.resnet.BasicBlock", "layers": [1, 1, 1, 1]}
    for _ in range(some.choice([0, 1, 1, 2, 3])):
        value = some.choice(forms)(value)
    return value


OPTIONS = [
    *("config", "ckpt_path", "print_config", "seed_everything", "model", "data", "callbacks", "trainer"),
    *(f"model.{name}" for name in ("optimizer", "lr_scheduler", "penalties", "penalties.x", "mixing", "weights")),
    *("model.decay_schedule", "model.decay", "data.init_args.root", "data.class_path", "callbacks.x"),
    *(f"trainer.{name}" for name in ("logger", "plugins", "strategy", "profiler", "callbacks", "default_root_dir")),
    *("trainer.accelerator", "trainer.precision", "model.optimizer.init_args.lr"),
]
IN_NETWORK = [
    "model.network",
    "model.network",
    "model.network",
    "model.network.class_path",
    "model.network.init_args",
    "model.network.init_args.norm_init",
    "model.network.dict_kwargs",
    "model.network.dict_kwargs.x",
]


def attacked(config: Config, option: str, value: Any) -> Config:
    """``config`` with ``value`` at ``option``."""
    changed = copy.deepcopy(config)
    *parents, last = option.split(".")
    part = changed
    for name in parents:
        part = part[name] if isinstance(part.get(name), dict) else part.setdefault(name, {})
    part[last] = value
    return changed


def attempt(number: int, option: str, path: str) -> str:
    """Loads the checkpoint at ``path`` and returns the error message, which is empty if it is accepted."""
    try:
        if option in IN_NETWORK and number % 5:
            load(path)
        else:
            TrainingCLI("test", ["--ckpt_path", path])
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_no_config_in_a_checkpoint_reaches_beyond_it(
    planted: Path, address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    content = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    some = random.Random(0)
    torch.save(content, "attack.ckpt")
    assert not attempt(1, "model.network", "attack.ckpt"), "the checkpoint itself is accepted"
    assert not attempt(1, "data", "attack.ckpt")
    sys.addaudithook(record)
    before, refused = sorted(planted.rglob("*")), 0
    for number in range(ATTACKS):
        option = some.choice(IN_NETWORK if number % 5 < 3 else OPTIONS)
        value = disguised(payload(some, address), some)
        torch.save({**content, "config": attacked(content["config"], option, value)}, "attack.ckpt")
        watched.append(planted)
        try:
            message = attempt(number, option, "attack.ckpt")
        finally:
            watched.clear()
        assert len(message.splitlines()) <= 2
        refused += bool(message)
        recorded.extend(f"import {name}" for name in sys.modules if name.partition(".")[0] in PLANTED)
        assert not recorded, f"attack {number}: {option} = {value!r} did {recorded}"
        assert sorted(planted.rglob("*")) == before, f"attack {number}: {option} = {value!r} changed the folder"
    assert refused > ATTACKS / 2, "what is accepted are options that are this machine's, and are dropped"


@pytest.mark.slow
def test_the_attacks_would_be_noticed(planted: Path, address: str) -> None:
    """With trust, or without the protection that is tested here, each kind of event is recorded."""
    from urllib.request import urlopen

    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    content = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    content["config"]["model"]["network"] = {"class_path": "evil.Net"}
    torch.save(content, "attack.ckpt")
    sys.addaudithook(record)
    watched.append(planted)
    try:
        with pytest.raises((UserError, OSError)):
            load("attack.ckpt", trust_it=True)
        with pytest.raises(OSError, match="404"):
            urlopen(f"{address}/weights.pth")
        Path("sub.yaml").read_text()
    finally:
        watched.clear()
        assert sys.modules.pop("evil", None)
    events = " ".join(recorded)
    recorded.clear()
    assert all(
        event in events for event in ("evil/__init__.py", "os.mkdir", "request", "socket.connect", "sub.yaml")
    ), events
