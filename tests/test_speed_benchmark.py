"""The speed benchmark works and reports what it measured; the speeds themselves cannot be tested."""

import copy
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.benchmarks.speed import speedrun
from tests.benchmarks.speed.command import main
from tests.benchmarks.speed.compare import changes
from tests.benchmarks.speed.process import elsewhere, on_terminal
from tests.benchmarks.speed.rows import Row, Target, median, not_run
from tests.benchmarks.speed.settings import Settings
from tests.benchmarks.speed.stacked import MOMENTUM, STEP, Stack
from tests.conftest import CONFIGS


def measured(*args: str) -> dict[str, Any]:
    main([*args, "--quick", "--rounds", "1", "--json", "speed.json"])
    found: dict[str, Any] = json.loads(Path("speed.json").read_text())
    return found


def test_the_path_of_an_image(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured("path")
    assert found["machine"]["cpu"]
    assert found["machine"]["cores"] > 0
    assert set(found["versions"]) == {"python", "torch", "torchvision", "lightning"}
    rows = {row["what"]: row for row in found["rows"]}
    steps = ("gather", "augment", "preprocess", "whole")
    assert list(rows) == [f"{step}, batch {size}" for size in (64, 512) for step in steps]
    assert all(row["value"] > 0 and row["unit"] == "images/s" and row["part"] == "path" for row in rows.values())
    whole = rows["whole, batch 512"]
    assert whole["ratio"] == whole["value"] / whole["against_value"]
    assert whole["met"] is (whole["value"] >= 20_000)
    printed = capsys.readouterr().out
    assert found["machine"]["cpu"] in printed
    assert "whole, batch 64" in printed


def test_without_a_gpu_it_says_so() -> None:
    (row,) = measured("gpu")["rows"]
    assert row["note"].startswith("not run: ")
    assert row["value"] is row["ratio"] is row["met"] is None


def test_the_speedrun_is_trained_with_each_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = {"speedrun": [0.938, 0.939, 0.940]}
    monkeypatch.setattr(speedrun, "trained", lambda _, name, seed: (900.0 + seed, accuracies[name][seed]))
    command, accuracy = speedrun._whole(Settings(seeds=3))
    assert command.value == 901
    assert accuracy.value == pytest.approx(0.939)
    assert accuracy.note == "standard deviation 0.0010"
    assert accuracy.met is False


def test_a_part_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> list[Row]:
        raise ValueError("no room")

    monkeypatch.setattr("tests.benchmarks.speed.path.measure", failing)
    with pytest.raises(SystemExit, match="1"):
        measured("path", "gpu")
    first, second = json.loads(Path("speed.json").read_text())["rows"]
    assert first["note"] == "not run: no room"
    assert second["part"] == "gpu"


def test_a_row() -> None:
    row = median("ours", [3.0, 1.0, 2.0], "s", "theirs", [4.0, 5.0], Target(0.5, most=True, of_ratio=True))
    assert (row.value, row.against_value) == (2.0, 4.5)
    assert row.ratio == 2.0 / 4.5
    assert row.met is True
    assert str(row.target) == "ratio ≤ 0.5"
    assert median("ours", [3.0], "s", target=Target(4)).met is False
    assert not_run("ours", "no time").ratio is None


def test_two_measurements_are_compared_by_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    def found(ours: float, seconds: float) -> list[Row]:
        beside = [2.0, 2.0, 2.0]
        rows = [median("ours", [ours - 0.1, ours, ours + 0.1], "s", "theirs", beside), median("all", [seconds], "s")]
        return [dataclasses.replace(row, part="seed") for row in rows]

    old = [row.as_dict() for row in found(1.0, 10.0)]
    ours, whole = changes(old, found(1.05, 20.0))
    assert (ours.kind, ours.old, ours.new) == ("ratio", 0.5, 0.525)
    assert ours.ratio == pytest.approx(1.05)
    assert ours.spread == pytest.approx(0.1)
    assert not ours.notable
    assert (whole.kind, whole.ratio, whole.spread, whole.notable) == ("s", 2.0, 0.0, True)
    assert changes(old, [median("another", [1.0], "s")]) == []
    measured("gpu")
    main(["gpu", "--compare", "speed.json"])
    assert "compared with speed.json" in capsys.readouterr().out


def test_stacked_networks_train_as_each_alone() -> None:
    stack = Stack(2, "cpu")
    networks = [copy.deepcopy(stack.template) for _ in range(2)]
    for number, network in enumerate(networks):
        state = {**stack.weights, **stack.fixed, **stack.buffers}
        network.load_state_dict({name: value[number] for name, value in state.items()})
        network.train()
    optimizers = [
        torch.optim.SGD(
            [w for w in network.parameters() if w.requires_grad], STEP, MOMENTUM, nesterov=True, weight_decay=decay
        )
        for network, decay in zip(networks, stack.decay.tolist(), strict=True)
    ]
    for _ in range(2):
        images, labels = torch.randn(2, 8, 3, 12, 12), torch.randint(10, (2, 8))
        stack.step(images, labels)
        for network, optimizer, x, y in zip(networks, optimizers, images, labels, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x), y, label_smoothing=0.2).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    for number, network in enumerate(networks):
        for name, w in network.named_parameters():
            if w.requires_grad:
                torch.testing.assert_close(stack.weights[name][number], w.detach())
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(stack.buffers[name][number], buffer)


FAKE = """
import torch

class CifarNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 10, 32).half()
    def reset(self):
        self.layer.reset_parameters()
    def forward(self, x):
        return self.layer(x).flatten(1)

@torch.compile
def update(gradient):
    assert gradient.bfloat16().dtype == torch.float32
    return gradient

class Muon(torch.optim.SGD):
    def step(self):
        (group,) = self.param_groups
        for w in group["params"]:
            w.data.add_(update(w.grad), alpha=-1e-9)
"""


def test_a_training_is_its_steps_times_their_seconds(tmp_path: Path) -> None:
    script = tmp_path / "airbench94_muon.py"
    script.write_text(FAKE)
    assert speedrun.airbench(str(script), 2, False) > 0
    values = {
        "step, small": [1.0, 2.0],
        "step, whole": [3.0, 3.0],
        "as it is": [20.0, 30.0],
        "memory kept": [10.0, 10.0],
    }
    asked = yaml.safe_load((CONFIGS / "speedrun.yaml").read_text())
    steps = asked["trainer"]["max_epochs"] * 98
    early = round(steps * asked["data"]["init_args"]["early_share"])
    *_, first, second = speedrun._rows(values)
    seconds = 1.5 * early + 3 * (steps - early)
    assert first.value == pytest.approx(seconds)
    assert first.ratio == pytest.approx(seconds / 5000)
    assert first.met is (seconds / 5000 <= 1.25)
    assert second.against_value == 2000
    assert second.met is (seconds / 2000 <= 1.0)
    in_bf16 = {f"step, {name}, bf16": [0.5, 0.5] for name in ("small", "whole")}
    *_, last = speedrun._rows({**values, **in_bf16, "memory kept, bf16": [4.0, 4.0]})
    assert last.ratio == pytest.approx(0.5 * steps / 800)
    for name in ("as it is", "memory kept"):
        del values[name]
    assert speedrun._rows(values)[-1].note.startswith("not run")


def test_a_process_of_its_own() -> None:
    assert elsewhere(os.path.normpath, "a//b") == "a/b"
    assert elsewhere(os.isatty, 1) is False
    assert on_terminal(os.isatty, 1)[0] is True
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        elsewhere(os.chdir, "nowhere")
