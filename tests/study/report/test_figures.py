"""Axes, colors and effects in the figures of a report."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from regularization.study.analysis.conclusion import Conclusion, Context, draw_conclusion
from regularization.study.config import Study
from regularization.study.report import colors, effects, figures
from regularization.study.report.card import answer_card
from regularization.study.report.page import write_report
from regularization.study.report.tables import HIDDEN, HIDDEN_OF_TRIALS, arm_rows, hidden_columns, trial_rows
from regularization.study.results import Result
from tests.study.analysis.synthetic import make_results, results_on_axis
from tests.study.report.test_page import many, two_axes


def with_metrics(results: list[Result], scale: float = 1.0) -> list[Result]:
    """Norms of two layers that fall with the arm, and loss and calibration error."""
    measured = []
    for number, result in enumerate(results):
        norms = {"norm/stem": 4.0 / (1 + number // 3), "norm/head": 3.0}
        row = result.row | norms | {"val_loss": 0.5 + 0.01 * number, "val_calibration_error": 0.1}
        measured.append(replace(result, row=row, rows=[result.rows[0], row]))
    return measured


def axis_study() -> tuple[Conclusion, Study]:
    results, study = results_on_axis([0, 0.5, 1, 0.5])
    return draw_conclusion(with_metrics(results), study, Context("λ=0")), study


def contrast(first: str, second: str) -> float:
    """The contrast of two colors by the formula of WCAG 2."""

    def luminance(color: str) -> float:
        channels = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#14181c"])
def test_the_colors_of_lines_carry_on_both_backgrounds(background: str) -> None:
    single = (colors.VALIDATION, colors.CLEAN, colors.RECOMMENDED, colors.NEUTRAL)
    for color in (*single, *colors.ARMS, *colors.ORDERED):
        assert contrast(color, background) >= 3, color


def test_epochs_are_whole_and_counted_from_1() -> None:
    conclusion, _ = axis_study()
    figure = figures.epoch_curves(conclusion, "val_accuracy", "validation accuracy")
    assert list(figure.data[0].x) == [9, 10]
    assert (figure.layout.xaxis.dtick, figure.layout.xaxis.tick0) == (1, 0)
    assert [figures._epoch_step(epochs) for epochs in (1, 2, 10, 11, 30, 200)] == [1, 1, 1, 2, 5, 20]


def ranges(figure: go.Figure) -> list[tuple[float, float]]:
    return [axis.range for axis in (figure.layout.xaxis, figure.layout.yaxis) if axis.range is not None]


@pytest.mark.parametrize("accuracies", [[0.999, 1.0, 0.98], [0.0, 0.02, 0.001], [1.0, 1.0, 1.0]])
def test_no_axis_goes_beyond_0_to_100_percent(accuracies: list[float]) -> None:
    named = make_results("none", accuracies) + make_results("l1", accuracies[::-1])
    study = Study(base="x", arms={"none": None, "l1": None})
    conclusion = draw_conclusion(named, study, Context("none"))
    shown = [figures.main_figure(conclusion, study), figures.epoch_curves(conclusion, "val_accuracy", "accuracy")]
    values = results_on_axis([0, 0.5, 19.9, 19.99])
    shown.append(figures.main_figure(draw_conclusion(*values, Context("λ=0")), values[1]))
    for figure in shown:
        assert ranges(figure)
        assert all(0 <= low < high <= 1 for low, high in ranges(figure))


def test_each_kind_of_study_shows_what_else_changed() -> None:
    conclusion, study = axis_study()
    titles = ["Norm of all weights", "Validation loss (NLL)", "Calibration error (ECE)"]
    shown = dict(effects.effect_figures(conclusion, study))
    assert list(shown) == titles
    norms = shown["Norm of all weights"]
    assert list(norms.data[1].y) == pytest.approx([(16 / number**2 + 9) ** 0.5 for number in (1, 2, 3, 4)])
    assert norms.layout.xaxis.title.text == "weight decay λ"

    results, study = two_axes()
    conclusion = draw_conclusion(with_metrics(results), study, Context("lr=0.2,weight_decay=0"))
    assert [figure.data[0].type for _, figure in effects.effect_figures(conclusion, study)] == ["heatmap"] * 3
    results, study, baseline = many(5)
    conclusion = draw_conclusion(with_metrics(results), study, Context(baseline))
    shown = dict(effects.effect_figures(conclusion, study))
    assert list(shown) == titles
    assert len(shown["Norm of all weights"].data[0].y) == 5
    # Without these metrics there is nothing to show.
    assert effects.effect_figures(draw_conclusion(results, study, Context(baseline)), study) == []


def test_the_norm_of_each_layer_by_lambda() -> None:
    conclusion, study = axis_study()
    assert study.axis is not None
    figure = effects.layer_norms(conclusion, study.axis)
    assert figure is not None
    (trace,) = figure.data
    assert list(trace.y) == ["stem", "head"]
    assert list(trace.x) == [f"{arm.results[0].values[study.axis]:g}" for arm in conclusion.arms]
    assert np.array(trace.text) == pytest.approx(np.array([[4, 2, 4 / 3, 1], [3, 3, 3, 3]]))
    assert np.array(trace.z) == pytest.approx(np.array([[1, 1 / 2, 1 / 3, 1 / 4], [1, 1, 1, 1]]))
    results, study = results_on_axis([0, 0.5, 1])
    assert effects.layer_norms(draw_conclusion(results, study, Context("λ=0")), study.axis or "") is None


def test_columns_that_are_hidden_at_first_exist_and_test_scores_stand_beside_validation() -> None:
    conclusion, _ = axis_study()
    results = [result for arm in conclusion.arms for result in arm.results]
    columns = list(arm_rows(conclusion, results, {})[0].cells)
    assert set(HIDDEN) < set(columns)
    assert columns[1:3] == ["validation accuracy", "test accuracy"]


def test_a_study_of_the_loss_is_reported_by_the_loss(tmp_path: Path) -> None:
    results, study = results_on_axis([0, 0.5, 1, 0.5])
    study = replace(study, objective="val_loss")
    results = with_metrics(results)
    conclusion = draw_conclusion(results, study, Context("λ=0"))
    figure = figures.main_figure(conclusion, study)
    traces = {trace.name: trace for trace in figure.data}
    assert "clean training" not in traces
    losses = [arm.average("val_loss") for arm in conclusion.arms]
    assert list(traces["validation, 95% interval"].y) == pytest.approx(losses)
    assert figure.layout.yaxis.title.text == "validation loss"
    assert "%" not in figure.layout.yaxis.tickformat
    columns = arm_rows(conclusion, results, {})[0].cells
    assert columns["validation loss"].text.startswith("0.5100 (")
    assert columns["validation accuracy"].text == f"{conclusion.arms[0].average('val_accuracy'):.2%}"
    labels = {fact.label: fact.value for fact in answer_card(conclusion, results, study).facts}
    assert labels["validation loss"] == f"{conclusion.chosen.mean:.4f}"
    page = write_report(conclusion, results, study, tmp_path, "").read_text()
    assert "Validation loss against weight decay λ" in page
    assert "by the validation loss of the last epoch" in page
    assert "Differences below 0.005 (the resolution) do not matter" in page


def test_the_tables_show_accuracy_loss_calibration_and_norms_beside_the_objective(tmp_path: Path) -> None:
    results, study = results_on_axis([0, 0.5, 1, 0.5])
    results = [replace(it, row={**it.row, "val_mine": -100.0 * it.accuracy}) for it in with_metrics(results)]
    results = [replace(it, rows=[{**row, "val_mine": it.row["val_mine"]} for row in it.rows]) for it in results]
    always = ["validation accuracy", "NLL", "ECE", "norm of the weights"]
    for objective, name in (("val_accuracy", None), ("val_loss", "validation loss"), ("min:val_mine", "val_mine")):
        study = replace(study, objective=objective)
        conclusion = draw_conclusion(results, study, Context("λ=0"))
        parsed = conclusion.chosen.objective
        by_arm = list(arm_rows(conclusion, results, {})[0].cells)
        by_trial = list(trial_rows(results, parsed)[0].cells)
        for columns, hidden in ((by_arm, hidden_columns(parsed)), (by_trial, HIDDEN_OF_TRIALS)):
            shown = [column for column in columns if column not in hidden]
            assert set(hidden) < set(columns)
            assert {*always, *([name] if name else [])} <= set(shown)
        if name:
            assert by_arm[1] == name
            assert by_trial[3] == name
    page = write_report(conclusion, results, study, tmp_path, "").read_text()
    assert "<h2>val_mine by epoch</h2>" in page
    assert "<h2>val_mine against weight decay λ</h2>" in page
    assert "Differences are in the unit of val_mine, positive where the arm is better" in page
    assert "by val_mine of the last epoch" in page
    text = page[page.index("<h2>Arms</h2>") :]
    assert f"{results[0].row['val_mine']:.5g}" in text
    # The axis has room for values below 0.
    low, high = figures.main_figure(conclusion, study).layout.yaxis.range
    values = [it.row["val_mine"] for it in results]
    assert low < min(values) < max(values) < high
