from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback, LambdaCallback

from regularization.callbacks.default_callbacks import default_callbacks, last_checkpoint, summary
from regularization.callbacks.history import History, Row

VALIDATED: list[Row] = [{"epoch": epoch, "val_accuracy": accuracy} for epoch, accuracy in enumerate([0.5, 0.9, 0.9])]


def test_callbacks_are_in_the_order_in_which_they_rely_on_each_other(tmp_path: Path) -> None:
    configured, last = Callback(), Callback()
    callbacks = default_callbacks(tmp_path, "seed: 0\n", configured=[configured], last=[last])
    names = [type(callback).__name__ for callback in callbacks.ordered]
    # The monitor measures while a configured callback has swapped the weights. After a divergence, no file is written.
    # The history is part of the checkpoints.
    for first, second in [
        ("Monitor", "Callback"),
        ("NonFiniteGuard", "LambdaCallback"),
        ("History", "BestCheckpoint"),
        ("BestCheckpoint", "LastCheckpoint"),
    ]:
        assert names.index(first) < names.index(second)
    assert callbacks.ordered.index(configured) == names.index("Monitor") + 1
    assert callbacks.ordered[-1] is last
    assert callbacks.history in callbacks.ordered
    assert callbacks.monitor in callbacks.ordered


def test_only_the_first_process_writes_the_config(tmp_path: Path) -> None:
    class Process:
        def __init__(self, rank: int) -> None:
            self.is_global_zero = rank == 0

    callbacks = default_callbacks(tmp_path, "seed: 0\n").ordered
    (writer,) = [callback for callback in callbacks if isinstance(callback, LambdaCallback)]
    writer.on_train_start(Process(1), None)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    writer.on_train_start(Process(0), None)  # type: ignore[arg-type]
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "no epoch was completed in {folder}"),
        ([{"epoch": 0.0}], "trained without validation\n{folder}"),
        (VALIDATED, "best validation accuracy 90.00% in epoch 2, 90.00% in the last one\n{folder}"),
    ],
)
def test_the_summary_names_the_best_epoch(rows: list[Row], text: str, tmp_path: Path) -> None:
    history = History(tmp_path)
    history.rows = rows
    assert summary(history) == text.format(folder=tmp_path)


def test_the_last_checkpoint_is_found_if_it_exists(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.touch()
    assert last_checkpoint(tmp_path) == path
