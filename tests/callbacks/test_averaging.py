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
EVERY_FOUR = ("--callbacks.slow.decay", "0.8", "--callbacks.slow.every", "4")


def averaged_values(module: LightningModule) -> NDArray[np.float64]:
    """All weights, and the statistics of batch norm."""
    assert isinstance(module, ImageClassifier)
    state = module.network.state_dict()
    return np.concatenate([state[name].double().flatten().numpy() for name in state if "num_batches" not in name])


def record_hooks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """The step, and the weights before and after each hook of Lookahead; the first entry is the start of training."""
    records = []

    def recorded(hook: Callable[..., None]) -> Callable[..., None]:
        def wrapper(callback: Lookahead, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
            before = averaged_values(module)
            hook(callback, trainer, module, *rest)
            records.append((trainer.global_step, before, averaged_values(module)))

        return wrapper

    for name in ("on_train_start", "on_train_batch_end"):
        monkeypatch.setattr(Lookahead, name, recorded(getattr(Lookahead, name)))
    return records


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lookahead_is_its_recursion(accumulated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    records = record_hooks(monkeypatch)
    main(["fit", *SHORT, *EVERY_FOUR, f"--trainer.accumulate_grad_batches={accumulated}"])
    steps = 12 // accumulated
    assert [step for step, *_ in records] == [batch // accumulated for batch in range(13)]
    slow = records[0][2]
    distances = []
    for (previous_step, *_), (step, before, after) in itertools.pairwise(records):
        if step == previous_step or (step % 4 and step != steps):
            np.testing.assert_array_equal(after, before)
            continue
        beta = 0.8**4 * (step / steps) ** 3
        distances.append(np.abs(before - slow).max())
        slow = np.where(before == 0, 0, beta * slow + (1 - beta) * before)
        np.testing.assert_allclose(after, slow, rtol=1e-6, atol=1e-7)
        slow = after
    assert len(distances) == (3 if accumulated == 1 else 2)
    assert min(distances) > 1e-3


def test_lookahead_refuses_impossible_options(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ({"decay": 1.0}, {"decay": -0.1}, {"every": 0}):
        with pytest.raises(UserError, match="Lookahead: "):
            Lookahead(**options)
    with pytest.raises(SystemExit):
        main(["fit", *SHORT, "--trainer.max_epochs=-1", "--trainer.max_steps=-1", "--model.lr_scheduler=null"])
    assert "Lookahead needs the length of the training" in capsys.readouterr().err


def test_the_last_checkpoint_of_lookahead_is_its_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the last step is not a multiple of ``every``."""
    records = record_hooks(monkeypatch)
    main(["fit", *SHORT])
    state = torch.load("runs/quickstart/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = [state[name].double().flatten().numpy() for name in state if "num_batches" not in name]
    last_step, before, after = records[-1]
    np.testing.assert_array_equal(np.concatenate(weights), after)
    assert last_step == 12
    assert not np.array_equal(before, after)
