"""Lookahead against its recursion in NumPy; EMA is tested with its overlay."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from numpy.typing import NDArray

from regularization import Lookahead, UserError
from regularization.cli.main import main
from regularization.models.classifier import ImageClassifier
from tests.training.test_command import QUICK

SHORT = (*QUICK, "--trainer.limit_train_batches", "6", "--trainer.max_epochs", "2", "--callbacks.slow", "Lookahead")
FOUR = ("--callbacks.slow.decay", "0.8", "--callbacks.slow.every", "4")


def numbers(module: LightningModule) -> NDArray[np.float64]:
    """All weights, and the statistics of batch norm."""
    assert isinstance(module, ImageClassifier)
    state = module.network.state_dict()
    return np.concatenate([state[name].double().flatten().numpy() for name in state if "num_batches" not in name])


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """The step, and the weights before and after it was Lookahead's turn; begins with those of before training."""
    seen = []

    def watched(hook: Callable[..., None]) -> Callable[..., None]:
        def around(callback: Lookahead, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
            before = numbers(module)
            hook(callback, trainer, module, *rest)
            seen.append((trainer.global_step, before, numbers(module)))

        return around

    for name in ("on_train_start", "on_train_batch_end"):
        monkeypatch.setattr(Lookahead, name, watched(getattr(Lookahead, name)))
    return seen


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lookahead_is_its_recursion(accumulated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    main(["fit", *SHORT, *FOUR, f"--trainer.accumulate_grad_batches={accumulated}"])
    steps = 12 // accumulated
    assert [step for step, *_ in seen] == [place // accumulated for place in range(13)]
    slow = seen[0][2]
    moved = []
    for (earlier, *_), (step, before, after) in itertools.pairwise(seen):
        if step == earlier or (step % 4 and step != steps):
            np.testing.assert_array_equal(after, before)
            continue
        beta = 0.8**4 * (step / steps) ** 3
        moved.append(np.abs(before - slow).max())
        slow = np.where(before == 0, 0, beta * slow + (1 - beta) * before)
        np.testing.assert_allclose(after, slow, rtol=1e-6, atol=1e-7)
        slow = after
    assert len(moved) == (3 if accumulated == 1 else 2)
    assert min(moved) > 1e-3


def test_lookahead_is_refused_what_can_not_be(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ({"decay": 1.0}, {"decay": -0.1}, {"every": 0}):
        with pytest.raises(UserError, match="Lookahead: "):
            Lookahead(**wrong)
    with pytest.raises(SystemExit):
        main(["fit", *SHORT, "--trainer.max_epochs=-1", "--trainer.max_steps=-1", "--model.lr_scheduler=null"])
    assert "Lookahead needs to know the end" in capsys.readouterr().err


def test_lookahead_ends_with_its_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint that is kept is the average, also when the last step is no multiple of ``every``."""
    seen = watch(monkeypatch)
    main(["fit", *SHORT])
    kept = torch.load("runs/quickstart/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = [kept[name].double().flatten().numpy() for name in kept if "num_batches" not in name]
    np.testing.assert_array_equal(np.concatenate(weights), seen[-1][2])
    assert seen[-1][0] == 12
    assert not np.array_equal(seen[-1][1], seen[-1][2])
