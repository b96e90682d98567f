"""The code blocks of docs/extend.md are written to files and run."""

import importlib
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from regularization import Penalty
from regularization.cli.main import main
from tests.conftest import rows_of
from tests.test_readme import ROOT, blocks, commands
from tests.training.test_command import interrupt_at

PAGE = ROOT / "docs" / "extend.md"
ON_CPU = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"]


@pytest.fixture(autouse=True)
def _files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of the page, in the folder that the program is started in."""
    for language, name in (("python", "mine.py"), ("yaml", "mine.yaml")):
        Path(name).write_text("\n".join(blocks(PAGE, language)))
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "mine", raising=False)


def test_the_page_runs_as_it_is_typed() -> None:
    for line in commands(PAGE):
        main([*shlex.split(line)[3:], *ON_CPU])
    runs = [Path(f"runs/mine/version_{number}") for number in (0, 1)]
    first, second = (rows_of(run) for run in runs)
    assert 0.5 < first[-1]["val_accuracy"] <= first[-1]["val_top_two"] <= 1
    for name in ("penalty/centered", "penalty/margin"):
        assert first[-1][name] > 0
        assert second[-1][name] > 0
    third = Path("runs/mine/version_2")
    epoch = torch.load(third / "checkpoints" / "best.ckpt", weights_only=True)["epoch"]
    assert epoch == max(rows_of(third), key=lambda row: row["val_top_two"])["epoch"]
    state = torch.load(runs[0] / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["network.3.weight"].shape == (5, 32)


def test_a_run_of_ones_own_classes_continues_with_the_same_bits() -> None:
    args = ["fit", "--config", "mine.yaml", *ON_CPU]
    main(args)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(14, patch)
        with pytest.raises(SystemExit):
            main(args)
    main([*args, "--ckpt_path", "last"])
    checkpoints = [Path(f"runs/mine/version_{number}/checkpoints/last.ckpt") for number in (0, 1)]
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in checkpoints)
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_its_penalty_has_the_gradient_of_its_formula() -> None:
    penalty: Penalty = importlib.import_module("mine").Centered(1.0)
    w = nn.Conv2d(3, 4, 3).weight.detach().double()
    (gradient,) = penalty.gradients([w])
    expected = w.flatten(1).mean(dim=1)[:, None, None, None].expand_as(w) / 27
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)
