"""The steps at which several processes write ``last.ckpt``; they agree on a request one step later."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from regularization.callbacks.checkpointing import BestCheckpoint, LastCheckpoint


class DelayedConsensus:
    """Like ``RankConsensus`` with several processes: a poll returns what was requested in the step before."""

    def __init__(self) -> None:
        self.requests = [0, 0]

    def start(self, trainer: Any) -> None:
        """Nothing to prepare."""

    def poll(self, *requests: int) -> list[int]:
        previous, self.requests = self.requests, list(requests)
        return previous


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("steps", "expected"), [(5, [5, 10, 15, 20]), (1, list(range(1, 22)))])
def test_several_processes_write_every_few_steps(steps: int, expected: list[int]) -> None:
    assert written_at(steps=steps) == expected


def test_several_processes_write_once_per_interval_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # A step takes a minute. All processes receive in the sixth step what was requested in the fifth.
    clock = itertools.count(0.0, 60.0)
    monkeypatch.setattr("regularization.callbacks.checkpointing.time.monotonic", lambda: clock.__next__())
    written = written_at(minutes=5.0)
    assert len(written) >= 2
    assert min(b - a for a, b in itertools.pairwise(written)) > 1


def written_at(**intervals: float) -> list[int]:
    """The steps after which ``last.ckpt`` is written within an epoch that does not end."""
    written: list[int] = []
    trainer: Any = SimpleNamespace(
        global_step=0,
        max_steps=-1,
        world_size=2,
        is_last_batch=False,
        num_training_batches=1000,
        received_sigterm=False,
        fit_loop=MagicMock(),
        _signal_connector=SimpleNamespace(),
        save_checkpoint=lambda path: written.append(trainer.global_step),
    )
    trainer.fit_loop.epoch_loop._should_check_val_fx.return_value = False
    last = LastCheckpoint(Path(), DelayedConsensus(), **intervals)  # type: ignore[arg-type]
    last.on_train_start(trainer, MagicMock())
    for trainer.global_step in range(1, 22):
        last.on_train_batch_end(trainer, MagicMock(), None, None, trainer.global_step - 1)
    return written


def test_no_path_of_a_checkpoint_is_taken_for_a_former_best_file(tmp_path: Path) -> None:
    """Lightning would delete that file after the next better epoch."""
    victim = str(tmp_path / "checkpoints" / ".." / "victim")
    callback = BestCheckpoint(tmp_path / "checkpoints")
    score = torch.tensor(0.0)
    state = {**callback.state_dict(), "best_k_models": {victim: score}, "kth_best_model_path": victim}
    for best in ("", victim):
        callback.load_state_dict({**state, "best_model_path": best, "best_model_score": score})
        assert callback.best_k_models == {}
        assert victim not in (callback.kth_best_model_path, callback.best_model_path)
