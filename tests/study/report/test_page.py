"""The figures, tables and page of a report, from synthetic results."""

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.artist import Artist
from matplotlib.transforms import Bbox

from regularization.study.analysis.conclusion import Context, draw_conclusion
from regularization.study.config import Study
from regularization.study.report import axes, figures, image_pairs, paper
from regularization.study.report.page import write_report
from regularization.study.report.tables import arm_rows
from regularization.study.results import Result
from tests.study.analysis.synthetic import LAMBDA, draw_accuracies, make_results, results_on_axis

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


def report(results: list[Result], study: Study, baseline: str, folder: Path) -> str:
    conclusion = draw_conclusion(results, study, Context(baseline))
    return write_report(conclusion, results, study, folder, "python -m x </pre>").read_text()


def test_zero_is_placed_left_of_the_positive_values() -> None:
    positions = axes.log_positions([0, 1e-4, 1e-2])
    assert positions[1:] == [-4, -2]
    assert positions[0] == pytest.approx(-4.5)
    assert axes.log_positions([0]) == [-1.0]


NAME = "weight_decay_and_dropout_with_label_smoothing_and_cutout_{}"


def many(arms: int, long: bool = False) -> tuple[list[Result], Study, str]:
    """A study of named arms, the baseline first."""
    names = ["none", *((NAME if long else "arm_{}").format(f"{number:03}") for number in range(1, arms))]
    table = draw_accuracies([0.002 * number for number in range(arms)], 3, np.random.default_rng(0)).tolist()
    results = [result for name, row in zip(names, table, strict=True) for result in make_results(name, row)]
    return results, Study(base="x", arms=dict.fromkeys(names)), "none"


def many_lambdas(count: int, collapsed: int = 3) -> tuple[list[Result], Study, str]:
    """A study of one option; its strongest values collapse."""
    gains = [*np.linspace(0, 0.02, count - collapsed), *[-0.2] * collapsed]
    values = [0.0, *(float(f"{value:.3g}") for value in np.logspace(-6, 0, count - 1))]
    table = draw_accuracies(gains, 3, np.random.default_rng(0)).tolist()
    results = [
        result
        for value, row in zip(values, table, strict=True)
        for result in make_results(f"λ={value:g}", row, values={LAMBDA: value}, unregularized=value == 0)
    ]
    return results, Study(base="x", vary={LAMBDA: values}), "λ=0"


@given(st.text("ab_,+/. ", min_size=1, max_size=90), st.integers(2, 40))
def test_a_folded_name_is_whole_and_narrow(name: str, length: int) -> None:
    lines = axes.fold(name, "\n", length).split("\n")
    assert "".join(lines) == name
    assert max(map(len, lines)) <= length


@pytest.mark.parametrize(
    ("count", "build"), [(5, many), (11, many), (25, many), (35, many), (5, many_lambdas), (25, many_lambdas)]
)
def test_no_two_arms_have_the_same_line(count: int, build: Callable[[int], tuple[list[Result], Study, str]]) -> None:
    results, study, baseline = build(count)
    lines = figures.epoch_curves(draw_conclusion(results, study, Context(baseline)), "val_accuracy", "accuracy").data
    assert len({(trace.line.color, trace.line.dash) for trace in lines}) == count


def bounds(artists: Sequence[Artist]) -> list[Bbox]:
    return [artist.get_window_extent() for artist in artists]


@pytest.mark.parametrize(
    "study",
    [
        many(5),
        many(10),
        many(25),
        many(25, long=True),
        many_lambdas(5),
        many_lambdas(25),
        (*two_axes(), "lr=0.2,weight_decay=0"),
    ],
    ids=["5 arms", "10 arms", "25 arms", "long names", "5 λ", "25 λ", "two axes"],
)
def test_nothing_in_the_figure_for_papers_overlaps(study: tuple[list[Result], Study, str]) -> None:
    results, config, baseline = study
    conclusion = draw_conclusion(results, config, Context(baseline))
    figure = paper.paper_figure(conclusion, config)
    figure.draw_without_rendering()
    plot = figure.axes[0]
    # Matplotlib also has labels beyond the ends of an axis, which it does not draw.
    columns = [label for label in plot.get_xticklabels() if plot.viewLim.containsx(label.get_position()[0])]
    rows = [label for label in plot.get_yticklabels() if plot.viewLim.containsy(label.get_position()[1])]
    groups = [[*columns, *plot.texts], rows, [plot.xaxis.label, plot.yaxis.label]]
    groups = [[text for text in group if text.get_text()] for group in groups]
    for group in groups:
        assert group
        pairs = itertools.combinations(bounds(group), 2)
        assert not [pair for pair in pairs if Bbox.intersection(*pair) is not None]
    inside = figure.bbox.padded(1)
    drawn = bounds([*itertools.chain(*groups), *figure.legends])
    assert all(inside.contains(*corner) for box in drawn for corner in box.corners())
    for legend in bounds(figure.legends):
        assert Bbox.intersection(legend, plot.bbox) is None
    shown = {label.get_text() for label in columns}
    assert config.axis is None or f"{conclusion.chosen.results[0].values[config.axis]:g}" in shown


@pytest.mark.parametrize("has_zero", [True, False])
def test_the_figure_for_papers_marks_the_break_between_zero_and_the_smallest_value(has_zero: bool) -> None:
    results, study = results_on_axis([0, 0.2, 1, 0.9])
    kept = [result for result in results if has_zero or result.arm != "λ=0"]
    plot = paper.paper_figure(draw_conclusion(kept, study, Context("λ=0" if has_zero else None)), study).axes[0]
    zero, smallest = plot.get_xticks()[:2]
    breaks = [text.get_position()[0] for text in plot.texts if text.get_text() == "//"]
    assert breaks == ([pytest.approx((zero + smallest) / 2)] if has_zero else [])


def test_the_curve_is_drawn_with_its_band() -> None:
    results, study = results_on_axis([0, 0.2, 1, 0.9, -30])
    conclusion = draw_conclusion(results, study, Context("λ=0"))
    traces = {trace.name: trace for trace in figures.main_figure(conclusion, study).data}
    band, curve = traces["95% band"], traces["smooth curve"]
    assert band.fill == "toself"
    assert len(band.x) == 2 * len(curve.x)
    high, low = np.split(np.array(band.y), 2)
    assert (low[::-1] < np.array(curve.y)).all()
    assert (np.array(curve.y) < high).all()
    # The arm that collapsed is drawn as dots, and is not part of the curve.
    assert max(curve.x) == pytest.approx(0.01)
    assert len(traces["one trial"].x) == 15


def test_without_three_positive_values_there_is_no_curve() -> None:
    results, study = results_on_axis([0, 0.2, 1])
    names = [trace.name for trace in figures.main_figure(draw_conclusion(results, study, Context("λ=0")), study).data]
    assert names == ["clean training", "validation, 95% interval", "one trial"]


def test_the_table_shows_verdicts_and_marks_other_significant_changes() -> None:
    none = make_results("none", [0.80, 0.81, 0.79])
    helps, equal = make_results("l1", [0.81, 0.821, 0.799]), make_results("l2", [0.8005, 0.8095, 0.7898])
    for results, losses in ((none, [1.0, 1.02, 0.98]), (helps, [2.0, 2.03, 1.97]), (equal, [1.0, 1.01, 0.99])):
        for result, loss in zip(results, losses, strict=True):
            result.row["val_loss"] = loss
    every = none + helps + equal
    conclusion = draw_conclusion(every, Study(base="x", arms={"none": None, "l1": None, "l2": None}), Context("none"))
    rows = [row.cells for row in arm_rows(conclusion, every, {})]
    assert [row["verdict"].text for row in rows] == ["–", "helps", "no difference that matters"]
    assert [row["NLL"].text for row in rows] == ["1.0000", "2.0000 *", "1.0000"]
    assert [row["p"].text == "–" for row in rows] == [True, False, False]
    assert rows[1]["difference from baseline"].text == "+1.00 (+0.75 to +1.25)"
    assert rows[1]["ECE"].text == "–"
    assert [row.highlighted for row in arm_rows(conclusion, every, {})] == [False, True, False]


@pytest.mark.parametrize("accuracies", [[0.999, 1.0, 0.98], [0.0, 0.02, 0.001], [1.0, 1.0, 1.0], [0.2, 0.9, 0.99]])
def test_no_interval_of_an_accuracy_goes_beyond_0_to_100_percent(accuracies: list[float], tmp_path: Path) -> None:
    results = make_results("none", accuracies) + make_results("l1", accuracies[::-1], test_accuracy=accuracies[0])
    results[-1] = replace(results[-1], test_accuracy=accuracies[1])
    study = Study(base="x", arms={"none": None, "l1": None})
    conclusion = draw_conclusion(results, study, Context("none"))
    for row in arm_rows(conclusion, results, {}):
        for column in ("validation accuracy", "test accuracy"):
            interval = re.search(r"\((-?[\d.]+) to (-?[\d.]+)\)", row.cells[column].text)
            assert (interval is None) == (row.cells[column].text == "–")
            assert interval is None or 0 <= float(interval[1]) <= float(interval[2]) <= 100
    for trace in figures.main_figure(conclusion, study).data:
        if (bars := trace.error_x).array is not None:
            assert all(x + bar <= 1 for x, bar in zip(trace.x, bars.array, strict=True))
            assert all(x - bar >= 0 for x, bar in zip(trace.x, bars.arrayminus, strict=True))
    assert "nan" not in re.sub(r"<script>.*?</script>", "", report(results, study, "none", tmp_path), flags=re.DOTALL)


def test_the_heat_map_shows_each_mean_at_its_values() -> None:
    results, study = two_axes()
    conclusion = draw_conclusion(results, study, Context("lr=0.2,weight_decay=0"))
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
        results, study = results_on_axis([0, 0.5, 1, -60])
        baseline = "λ=0"
    elif kind == "two axes":
        results, study = two_axes()
        baseline = "lr=0.2,weight_decay=0"
    else:
        seeds = [0.8] if kind == "one seed" else [0.8, 0.81, 0.8]
        results = make_results("none", seeds) + make_results("<script>alert(1)</script>", seeds)
        study, baseline = Study(base="x", arms={"none": None}), "none"
    page = report(results, study, baseline, tmp_path)
    body = page[page.index("<body>") :]
    assert "<script>alert(1)" not in body.replace("\\u003cscript", "")
    assert "</pre></pre>" not in body
    drawn = json.loads(body.split("const figures = ")[1].split(";\n")[0].replace("<\\/", "</"))
    assert len(drawn) >= 2
    assert "NaN" not in json.dumps(drawn)
    text = re.sub(r"<script>.*?</script>", "", body, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", text)
    assert ">verdict</th>" in text
    assert 0 < text.index('id="card"') < text.index('id="plot1"') < text.index("<h2>Arms</h2>")
    for suffix, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert (tmp_path / f"figure.{suffix}").read_bytes().startswith(start)


def test_compare_images_counts_fixed_and_broken_predictions(tmp_path: Path) -> None:
    """Counted by hand for four images and two seeds: image 7 is fixed twice, image 9 is broken once."""
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
    # The second arm classified image 7 as class 0, the first arm image 9.
    assert paired.predicted == {7: 0, 9: 0}
    assert (paired.fixed, paired.broken) == (2, 1)
    assert paired.gains_by_image == {7: 1.0, 9: -0.5}
    assert paired.gain.difference == pytest.approx(1 / 8)
    assert image_pairs.compare_images(first, make_results("other", [0.5, 0.5], folder=tmp_path)) is None
    assert not math.isnan(paired.gain.low)
