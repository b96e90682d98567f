"""The figures, tables and page of a report, from synthetic results."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from regularization.study.analysis.conclusion import draw_conclusion
from regularization.study.config import Study
from regularization.study.report import figures, image_pairs
from regularization.study.report.page import write_report
from regularization.study.results import Result
from tests.study.analysis.test_conclusion import LAMBDA, make_results, results_on_axis

LR = "model.optimizer.lr"


def two_axes() -> tuple[list[Result], Study]:
    results = []
    for lr in (0.1, 0.2):
        for strength in (0.0, 1e-3, 1e-2):
            mean = 0.5 + lr + strength
            arm = f"lr={lr:g},weight_decay={strength:g}"
            values = {LR: lr, LAMBDA: strength}
            results += make_results(arm, [mean, mean + 0.01], values=values, unregularized=strength == 0)
    return results, Study(base="x", vary={LR: [0.1, 0.2], LAMBDA: [0, 1e-3, 1e-2]})


def test_zero_is_placed_left_of_the_positive_values() -> None:
    positions = figures.log_positions([0, 1e-4, 1e-2])
    assert positions[1:] == [-4, -2]
    assert positions[0] == pytest.approx(-4.5)
    assert figures.log_positions([0]) == [-1.0]


def test_regions_reach_halfway_to_the_next_arm() -> None:
    weak = make_results("weak", [0.80, 0.81], decay=0.1, values={LAMBDA: 1e-4})
    weaker = make_results("weaker", [0.80, 0.81], decay=0.01, values={LAMBDA: 1e-5})
    none = make_results("none", [0.80, 0.81], decay=0.0, values={LAMBDA: 0})
    strong = make_results("strong", [0.2, 0.21], clean=0.2, decay=90.0, values={LAMBDA: 1e-1})
    study = Study(base="x", vary={LAMBDA: [0, 1e-5, 1e-4, 1e-1]})
    conclusion = draw_conclusion([*none, *weak, *strong, *weaker], study, "none")
    positions = figures.log_positions([0, 1e-5, 1e-4, 1e-1])
    weak_region, strong_region = figures.effect_regions(conclusion.arms, positions)
    assert weak_region[0] == pytest.approx((positions[0] - 5) / 2)
    assert weak_region[1:] == (-2.5, "little effect")
    assert strong_region == (-2.5, -0.75, "underfits")


def test_the_heat_map_shows_each_mean_at_its_values() -> None:
    results, study = two_axes()
    conclusion = draw_conclusion(results, study, "lr=0.2,weight_decay=0")
    figure = figures.main_figure(conclusion, study)
    assert figure.data[0].type == "heatmap"
    grid = np.array(figure.data[0].z, dtype=float)
    assert grid.shape == (2, 3)
    for arm in conclusion.arms:
        values = arm.results[0].values
        row, column = [0.1, 0.2].index(values[LR]), [0, 1e-3, 1e-2].index(values[LAMBDA])
        assert grid[row, column] == pytest.approx(arm.mean)


@pytest.mark.parametrize("kind", ["axis", "two axes", "arms", "one seed"])
def test_the_report_of_each_kind_of_study(kind: str, tmp_path: Path) -> None:
    if kind == "axis":
        results, study = results_on_axis([0.70, 0.75, 0.80, 0.10])
        baseline = "λ=0"
    elif kind == "two axes":
        results, study = two_axes()
        baseline = "lr=0.2,weight_decay=0"
    else:
        seeds = [0.8] if kind == "one seed" else [0.8, 0.81, 0.8]
        results = make_results("none", seeds) + make_results("<script>alert(1)</script>", seeds)
        study, baseline = Study(base="x", arms={"none": None}), "none"
    page = write_report(
        draw_conclusion(results, study, baseline), results, study, tmp_path, "python -m x </pre>"
    ).read_text()
    body = page[page.index("<body>") :]
    assert "<script>alert(1)" not in body.replace("\\u003cscript", "")
    assert "</pre></pre>" not in body
    drawn = json.loads(body.split("const figures = ")[1].split(";\n")[0].replace("<\\/", "</"))
    assert len(drawn) >= 2
    assert "NaN" not in json.dumps(drawn)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_compare_images_counts_fixed_and_broken_predictions(tmp_path: Path) -> None:
    """By hand, for four images and two seeds: image 7 is fixed twice, image 9 is broken once."""
    first, second = make_results("l1", [0.5, 0.5]), make_results("none", [0.5, 0.5])
    predictions = {"l1": ([1, 1, 0, 0], [1, 1, 1, 0]), "none": ([0, 1, 0, 0], [0, 1, 1, 1])}
    for number, result in enumerate([*first, *second]):
        folder = tmp_path / str(number)
        folder.mkdir()
        object.__setattr__(result, "folder", folder)
        logits = np.zeros((4, 2), dtype=np.float16)
        logits[np.arange(4), predictions[result.arm][result.seed]] = 1
        labels, index = np.ones(4, dtype=np.int64), np.array([7, 3, 5, 9])
        np.savez(folder / "val_logits.npz", logits=logits, labels=labels, index=index)
    paired = image_pairs.compare_images(first, second)
    assert paired is not None
    assert (paired.fixed, paired.broken) == (2, 1)
    assert paired.gains_by_image == {7: 1.0, 9: -0.5}
    assert paired.gain.difference == pytest.approx(1 / 8)
    assert paired.p == 1.0
    assert image_pairs.compare_images(first, make_results("other", [0.5, 0.5], folder=tmp_path)) is None
    assert not math.isnan(paired.gain.low)
