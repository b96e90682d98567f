"""When ``last.ckpt`` is written, where several processes hear of a wish with the next step."""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from regularization.callbacks.checkpointing import LastCheckpoint


class Late:
    """As ``RankConsensus`` is with several processes: the answer is to what was wished for in the step before."""

    def __init__(self) -> None:
        self.wished = [0, 0]

    def begin(self, trainer: Any) -> None:
        """Nothing to get ready."""

    def ask(self, *wishes: int) -> list[int]:
        answer, self.wished = self.wished, list(wishes)
        return answer


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("steps", "expected"), [(5, [5, 10, 15, 20]), (1, list(range(1, 22)))])
def test_several_processes_write_after_so_many_steps(steps: int, expected: list[int]) -> None:
    assert written_at(steps=steps) == expected


def test_several_processes_write_once_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # A step takes a minute. What is wished for in the fifth is heard, and done, with the sixth.
    clock = itertools.count(0.0, 60.0)
    monkeypatch.setattr("regularization.callbacks.checkpointing.time.monotonic", lambda: clock.__next__())
    written = written_at(minutes=5.0)
    assert len(written) >= 2
    assert min(b - a for a, b in itertools.pairwise(written)) > 1


def written_at(**every: float) -> list[int]:
    loop = MagicMock(_is_training_done=False)
    loop._should_accumulate.return_value = loop._should_check_val_fx.return_value = False
    written: list[int] = []
    trainer: Any = SimpleNamespace(
        global_step=0,
        world_size=2,
        received_sigterm=False,
        fit_loop=SimpleNamespace(epoch_loop=loop, _data_fetcher=object()),
        save_checkpoint=lambda path: written.append(trainer.global_step),
    )
    last = LastCheckpoint(Path(), Late(), **every)  # type: ignore[arg-type]
    last.on_train_start(trainer, MagicMock())
    for trainer.global_step in range(1, 22):
        last.on_train_batch_end(trainer)
    return written
