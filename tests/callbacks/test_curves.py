from pathlib import Path

import numpy as np
from PIL import Image

from regularization.callbacks.curves import draw, save
from regularization.models.objective import LOSS, Objective

ROWS = [
    {"epoch": epoch, "train_loss": 2 / (epoch + 1), "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": accuracy}
    for epoch, accuracy in enumerate([0.3, 0.8, 0.6])
]


def test_the_rows_are_drawn() -> None:
    loss, accuracy = draw(ROWS, "title").axes
    training, validation = loss.get_lines()
    assert np.array_equal(training.get_xydata(), [(1, 2), (2, 1), (3, 2 / 3)])
    assert [line.get_label() for line in loss.get_lines()] == ["training", "validation"]
    assert validation.get_ydata().tolist() == [1, 1, 1]  # type: ignore[union-attr]
    assert np.array_equal(accuracy.get_lines()[1].get_ydata(), [0.3, 0.8, 0.6])
    best = accuracy.get_lines()[2]
    assert (best.get_xydata().tolist(), best.get_label()) == ([[2, 0.8]], "best 80.00%")  # type: ignore[union-attr]
    assert [axes.get_xlabel() for axes in (loss, accuracy)] == ["epoch", "epoch"]
    assert [axes.get_ylabel() for axes in (loss, accuracy)] == ["cross-entropy (nats)", "accuracy"]


def test_without_validation_only_training_is_drawn() -> None:
    rows = [{name: value for name, value in row.items() if "val" not in name} for row in ROWS]
    assert [len(axes.get_lines()) for axes in draw(rows, "title").axes] == [1, 1]


def test_the_plot_is_saved(tmp_path: Path) -> None:
    save(draw(ROWS[:1], "one epoch"), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (1500, 600)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_another_objective_has_a_panel_and_its_best_epoch() -> None:
    rows = [row | {"val_cost": cost} for row, cost in zip(ROWS, [3.0, 1.5, 2.0], strict=True)]
    loss, accuracy, cost = draw(rows, "title", Objective.parse("min:val_cost")).axes
    values, best = cost.get_lines()
    assert np.array_equal(values.get_xydata(), [(1, 3), (2, 1.5), (3, 2)])
    assert (best.get_xydata().tolist(), best.get_label()) == ([[2, 1.5]], "best 1.5")  # type: ignore[union-attr]
    assert cost.get_ylabel() == "val_cost"
    assert [len(axes.get_lines()) for axes in (loss, accuracy)] == [2, 2]
    # The loss already has a panel of its own; its best value is the first of the equal values.
    loss, accuracy = draw(rows, "title", LOSS).axes
    assert [line.get_label() for line in loss.get_lines()] == ["training", "validation", "best 1.0000"]
    assert loss.get_lines()[2].get_xydata().tolist() == [[1, 1]]  # type: ignore[union-attr]
    assert len(accuracy.get_lines()) == 2
    # A metric that was not logged is not drawn.
    assert len(draw(ROWS, "title", Objective.parse("min:val_cost")).axes) == 2
