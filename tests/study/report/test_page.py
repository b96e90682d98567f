"""Figures and page of a report, on results that were made up."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from regularization.study.conclusion import draw_conclusion
from regularization.study.config import Study
from regularization.study.report import figures, image_pairs
from regularization.study.report.page import write_report
from regularization.study.results import Result
from tests.study.test_conclusion import LAMBDA, made, on_axis

LR = "model.optimizer.lr"


def two_axes() -> tuple[list[Result], Study]:
    results = []
    for lr in (0.1, 0.2):
        for strength in (0.0, 1e-3, 1e-2):
            mean = 0.5 + lr + strength
            arm = f"lr={lr:g},weight_decay={strength:g}"
            values = {LR: lr, LAMBDA: strength}
            results += made(arm, [mean, mean + 0.01], values=values, unregularized=strength == 0)
    return results, Study(base="x", vary={LR: [0.1, 0.2], LAMBDA: [0, 1e-3, 1e-2]})


def test_zero_stands_apart_on_the_log_axis() -> None:
    places = figures.positions([0, 1e-4, 1e-2])
    assert places[1:] == [-4, -2]
    assert places[0] == pytest.approx(-4.5)
    assert figures.positions([0]) == [-1.0]


def test_regions_reach_halfway_to_the_next_arm() -> None:
    weak = made("weak", [0.80, 0.81], decay=0.1, values={LAMBDA: 1e-4})
    weaker = made("weaker", [0.80, 0.81], decay=0.01, values={LAMBDA: 1e-5})
    none = made("none", [0.80, 0.81], decay=0.0, values={LAMBDA: 0})
    strong = made("strong", [0.2, 0.21], clean=0.2, decay=90.0, values={LAMBDA: 1e-1})
    study = Study(base="x", vary={LAMBDA: [0, 1e-5, 1e-4, 1e-1]})
    found = draw_conclusion([*none, *weak, *strong, *weaker], study, "none")
    places = figures.positions([0, 1e-5, 1e-4, 1e-1])
    first, last = figures.regions(found.arms, places)
    assert first[0] == pytest.approx((places[0] - 5) / 2)
    assert first[1:] == (-2.5, "hardly acts")
    assert last == (-2.5, -0.75, "underfits")


def test_a_heat_map_has_each_mean_in_its_place() -> None:
    results, study = two_axes()
    found = draw_conclusion(results, study, "lr=0.2,weight_decay=0")
    figure = figures.main_figure(found, study)
    assert figure.data[0].type == "heatmap"
    grid = np.array(figure.data[0].z, dtype=float)
    assert grid.shape == (2, 3)
    for arm in found.arms:
        values = arm.results[0].values
        row, column = [0.1, 0.2].index(values[LR]), [0, 1e-3, 1e-2].index(values[LAMBDA])
        assert grid[row, column] == pytest.approx(arm.mean)


@pytest.mark.parametrize("kind", ["axis", "two axes", "arms", "one seed"])
def test_every_kind_of_study_has_its_page(kind: str, tmp_path: Path) -> None:
    if kind == "axis":
        results, study = on_axis([0.70, 0.75, 0.80, 0.10])
        baseline = "λ=0"
    elif kind == "two axes":
        results, study = two_axes()
        baseline = "lr=0.2,weight_decay=0"
    else:
        seeds = [0.8] if kind == "one seed" else [0.8, 0.81, 0.8]
        results = made("none", seeds) + made("<script>alert(1)</script>", seeds)
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


def test_paired_by_image_counts_what_turned(tmp_path: Path) -> None:
    """Of four images with two seeds, by hand: image 7 is fixed twice, 9 broken once."""
    ours, theirs = made("l1", [0.5, 0.5]), made("none", [0.5, 0.5])
    right = {"l1": ([1, 1, 0, 0], [1, 1, 1, 0]), "none": ([0, 1, 0, 0], [0, 1, 1, 1])}
    for number, result in enumerate([*ours, *theirs]):
        folder = tmp_path / str(number)
        folder.mkdir()
        object.__setattr__(result, "folder", folder)
        logits = np.zeros((4, 2), dtype=np.float16)
        logits[np.arange(4), right[result.arm][result.seed]] = 1
        labels, index = np.ones(4, dtype=np.int64), np.array([7, 3, 5, 9])
        np.savez(folder / "val_logits.npz", logits=logits, labels=labels, index=index)
    paired = image_pairs.pair(ours, theirs)
    assert paired is not None
    assert (paired.fixed, paired.broken) == (2, 1)
    assert paired.images == {7: 1.0, 9: -0.5}
    assert paired.gain.difference == pytest.approx(1 / 8)
    assert paired.p == 1.0
    assert image_pairs.pair(ours, made("other", [0.5, 0.5], folder=tmp_path)) is None
    assert not math.isnan(paired.gain.low)
