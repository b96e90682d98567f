"""Files that are not checkpoints of this program, or unusual ones: each is refused in one or two lines."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from regularization import SmallResNet, UserError
from regularization.models.pretrained import load_weights
from regularization.runs import checkpoint_io

CONTENT: dict[str, Any] = {
    "epoch": 0,
    "global_step": 1,
    "pytorch-lightning_version": "2.6.6",
    "state_dict": {"network.weight": torch.zeros(2)},
    "config": {},
    "settings": {},
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", []),
        ("config", "text"),
        ("config", None),
        ("state_dict", 3),
        ("state_dict", {1: torch.zeros(2)}),
        ("state_dict", {"network.weight": 0.5}),
        ("state_dict", {"network.weight": torch.zeros(2).to_sparse()}),
        ("state_dict", {"network.weight": torch.zeros(2, device="meta")}),
        ("settings", [1]),
        ("epoch", "1"),
        ("pytorch-lightning_version", 2),
        ("callbacks", [1]),
        ("loops", 1),
        ("optimizer_states", {}),
        ("lr_schedulers", None),
        ("train_scores", "none"),
    ],
)
def test_values_of_other_types(key: str, value: Any) -> None:
    torch.save(CONTENT, "plain.ckpt")
    assert checkpoint_io.read(Path("plain.ckpt"))["epoch"] == 0
    torch.save({**CONTENT, key: value}, "odd.ckpt")
    with pytest.raises(UserError, match=r"odd.ckpt is not a checkpoint of a run of this program: "):
        checkpoint_io.read(Path("odd.ckpt"))


@pytest.mark.parametrize("content", [3, [CONTENT], {}, {**CONTENT, "x": 1} | {}, torch.zeros(2)])
def test_other_content(content: Any) -> None:
    if isinstance(content, dict):
        content.pop("epoch", None)
    torch.save(content, "odd.ckpt")
    with pytest.raises(UserError, match="is a PyTorch file but not a checkpoint"):
        checkpoint_io.read(Path("odd.ckpt"))


def read_weights(path: Path) -> Any:
    """Reads weights like ``--model.weights``."""
    return load_weights(SmallResNet(width=2), path)


@pytest.mark.parametrize("read", [checkpoint_io.read, read_weights])
def test_a_compressed_archive_is_refused_before_it_is_unpacked(
    read: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({**CONTENT, "state_dict": {"network.weight": torch.zeros(10**6)}}, "plain.ckpt")
    with zipfile.ZipFile("plain.ckpt") as plain, zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert Path("bomb.ckpt").stat().st_size < 20_000
    assert torch.load("bomb.ckpt")["state_dict"]["network.weight"].shape == (10**6,), "PyTorch unpacks it"
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match="it is compressed, and would unpack to 4 MB"):
        read(Path("bomb.ckpt"))


def test_parts_that_overlap_are_refused() -> None:
    """The same bytes have many names: each part has its stated size, but together they are larger than the file."""
    torch.save({**CONTENT, "state_dict": {"network.weight": torch.zeros(10**5)}}, "plain.ckpt")
    with zipfile.ZipFile("plain.ckpt", "a") as archive:
        part = next(part for part in archive.infolist() if part.file_size == 4 * 10**5)
        archive.filelist += [part] * 10
        archive.comment = b"x"  # makes zipfile write the directory again
    with pytest.raises(UserError, match=r"is not a file that torch.save wrote"):
        checkpoint_io.read(Path("plain.ckpt"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(value: float) -> None:
    state = SmallResNet(width=2).state_dict()
    state["head.weight"][1, 1] = value
    torch.save(state, "broken.pth")
    with pytest.raises(UserError, match=r"--model.weights: broken.pth: head.weight contains NaN or infinity"):
        read_weights(Path("broken.pth"))


def test_a_buffer_may_be_infinite_but_not_nan() -> None:
    network = torch.nn.Module()
    network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    checkpoint_io.check_finite(network.state_dict(), network, "x")
    with pytest.raises(UserError, match="x: mask contains NaN"):
        checkpoint_io.check_finite({"mask": torch.tensor([float("nan")])}, network, "x")
