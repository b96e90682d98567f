"""The line that is printed for each epoch."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from regularization.callbacks.history import MAX_WIDTH, History, Row, header, wrap
from tests.callbacks.test_curves import ROWS

SHORT = ROWS[0] | {"seconds": 0.42}


def line(row: Row, monkeypatch: pytest.MonkeyPatch, left: float = 0.0, **trainer: Any) -> str:
    history = History(Path())
    history.rows = [row]
    monkeypatch.setattr(History, "_seconds_left", lambda *_: left)
    return history._describe_epoch(SimpleNamespace(**({"max_epochs": 30, "max_steps": -1} | trainer)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "trainer", "text"),
    [
        (SHORT, {}, "epoch  1/30    2.000    50.0%    1.000    30.0%    0.4 s"),
        (SHORT, {"left": 100}, "epoch  1/30    2.000    50.0%    1.000    30.0%    0.4 s  1.7 min"),
        (SHORT, {"max_epochs": -1, "max_steps": 9}, "epoch   1    2.000    50.0%    1.000    30.0%    0.4 s"),
        (SHORT | {"val_accuracy": 0.05}, {}, "epoch  1/30    2.000    50.0%    1.000     5.0%    0.4 s"),
        (
            {"epoch": 29, "train_loss": 0.5, "train_accuracy": 1, "seconds": 75},
            {},
            "epoch 30/30    0.500   100.0%                    1.2 min",
        ),
    ],
)
def test_the_line_of_an_epoch(row: Row, trainer: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(row, monkeypatch, **trainer) == text


@pytest.mark.parametrize("epochs", [1, 30, 200, 1000])
@pytest.mark.parametrize("loss", [0.0001, 2.3, 123.456, 1e30, float("inf")])
@pytest.mark.parametrize("seconds", [0.01, 59.9, 599.0, 4321.0])
def test_the_line_of_an_epoch_fits_a_terminal(
    epochs: int, loss: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"epoch": epochs - 1, "train_loss": loss, "train_accuracy": 1, "val_loss": loss, "val_accuracy": 1}
    for left in (0.0, 59.4, 3599.0, 999 * 3600.0):
        text = line(row | {"seconds": seconds}, monkeypatch, left, max_epochs=epochs)
        assert len(text) <= MAX_WIDTH == 80
        assert re.search(r"\d (s|min|h)$", text)


@pytest.mark.parametrize(("epochs", "steps"), [(1, -1), (30, -1), (-1, 9)])
def test_the_header_is_aligned_with_the_lines(epochs: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer: Any = SimpleNamespace(max_epochs=epochs, max_steps=steps)
    stages, columns = header(trainer).splitlines()
    text = line(SHORT | {"epoch": 0}, monkeypatch, 100.0, max_epochs=epochs, max_steps=steps)
    assert [match.end() for match in re.finditer(r"[\d.]+( min| s|%)?(?=  |$)", text)][-4:] == [
        match.end() for match in re.finditer(r"\w+", columns)
    ][-4:], "the columns end where their names end"
    assert [match.end() for match in re.finditer("accuracy", columns)] == [
        match.end() for match in re.finditer(r"\w+", stages)
    ]


def test_lines_are_broken_after_commas() -> None:
    parts = [f"a part with number {number}" for number in range(7)]
    lines = wrap(", ".join(parts)).splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= MAX_WIDTH
    assert " ".join(lines).split(", ") == parts
    assert all(line.endswith(",") for line in lines[:-1])
