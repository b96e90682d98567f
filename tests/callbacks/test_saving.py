"""When ``last.ckpt`` is written, where several processes hear of a wish with the next step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from regularization.callbacks.saving import Last


class Late:
    """As ``Agreement`` is with several processes: the answer is to what was wished for in the step before."""

    def __init__(self) -> None:
        self.wished = [0, 0]

    def begin(self, trainer: Any) -> None:
        """Nothing to get ready."""

    def ask(self, *wishes: int) -> list[int]:
        answer, self.wished = self.wished, list(wishes)
        return answer


def test_several_processes_write_once_in_so_many_steps() -> None:
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
    last = Last(Path(), Late(), steps=5)  # type: ignore[arg-type]
    last.on_train_start(trainer, MagicMock())
    for trainer.global_step in range(1, 22):
        last.on_train_batch_end(trainer)
    assert written == [6, 11, 16, 21]
