"""The advice about precision on CPUs with and without bfloat16 instructions."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from regularization import SmallResNet, WhitenedNet
from regularization.models.compilation import bfloat16_instructions, precision_advice

BF16 = {"avx512_bf16": True, "amx_bf16": False, "avx2": True}


def advice(precision: str, network: nn.Module, device: str = "cpu") -> str | None:
    trainer: Any = SimpleNamespace(precision=precision, strategy=SimpleNamespace(root_device=torch.device(device)))
    return precision_advice(trainer, network)


def pretend(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


def test_a_cpu_with_bfloat16_is_recommended_the_precision_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, BF16)
    said = advice("32-true", WhitenedNet()) or ""
    assert "--trainer.precision bf16-mixed, a step may take only 65% of the time" in said
    assert advice("bf16-mixed", WhitenedNet()) is None
    assert advice("32-true", WhitenedNet(), "cuda:0") is None


def test_a_narrow_network_gains_nothing_from_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, BF16)
    assert advice("32-true", SmallResNet(width=8)) is None
    assert advice("32-true", nn.Linear(9, 9)) is None


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_in_software_is_warned_about(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    pretend(monkeypatch, dict.fromkeys(BF16, False))
    assert f"precision {precision} is slower than 32-true" in (advice(precision, WhitenedNet()) or "")
    assert advice("32-true", WhitenedNet()) is None


@pytest.mark.parametrize("capabilities", [{}, {"neon": True}])
def test_nothing_is_said_of_an_unknown_cpu(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool]) -> None:
    pretend(monkeypatch, capabilities)
    assert bfloat16_instructions() is None
    assert advice("bf16-mixed", WhitenedNet()) is None
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert bfloat16_instructions() is None, "PyTorch 2.9"
