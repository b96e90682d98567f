"""The interactive figures of a report, by Plotly."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.colors import qualitative, sample_colorscale

from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.analysis.curve import Curve
from regularization.study.config import Study
from regularization.study.report.axes import (
    CLEAN,
    OPTION_LENGTH,
    RECOMMENDED,
    VALIDATION,
    accuracy_range,
    arm_positions,
    error_bars,
    fold,
    labelled,
)
from regularization.study.results import Result, Row

BAND = "rgba(42, 120, 181, 0.16)"
ARM_COLORS = qualitative.D3
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def main_figure(conclusion: Conclusion, study: Study) -> go.Figure:
    """The λ curve for one axis, the heat map for two axes, or the forest plot for named arms."""
    if study.axis:
        return lambda_curve(conclusion, study.axis)
    return heat_map(conclusion, list(study.vary)) if len(study.vary) == 2 else forest_plot(conclusion)


def lambda_curve(conclusion: Conclusion, option: str) -> go.Figure:
    """Validation accuracy against λ (each seed, mean and 95% interval), and clean training accuracy.

    λ has a logarithmic axis, with 0 at its left end. The smooth curve is drawn with its 95% band.
    """
    arms, positions = conclusion.arms, arm_positions(conclusion, option)
    x = [10**position for position in positions]
    figure = go.Figure()
    if conclusion.curve is not None:
        _add_band(figure, conclusion.curve)
    clean = [arm.average("clean_accuracy") for arm in arms]
    figure.add_scatter(x=x, y=clean, name="clean training", mode="lines+markers", line={"color": CLEAN, "dash": "dot"})
    figure.add_trace(_mean_trace(arms, x))
    figure.add_trace(_seed_trace(arms, x, "x", "y"))
    figure.add_vline(x[arms.index(conclusion.chosen)], line_dash="dash", line_color=RECOMMENDED)
    values = [arm.results[0].values[option] for arm in labelled(conclusion, option)]
    ticks = [x[index] for index, arm in enumerate(arms) if arm in labelled(conclusion, option)]
    labels = [f"{value:g}" for value in values]
    figure.update_xaxes(type="log", title=fold(option, "<br>", OPTION_LENGTH), tickvals=ticks, ticktext=labels)
    _limit_accuracies(figure, conclusion, option)
    return _with_layout(figure)


def _limit_accuracies(figure: go.Figure, conclusion: Conclusion, option: str) -> None:
    """Sets the range of the axis, and marks the arms below it."""
    bottom, top = accuracy_range(conclusion)
    figure.update_yaxes(title="accuracy", tickformat=".1~%", range=[bottom, top])
    for position, arm in zip(arm_positions(conclusion, option), conclusion.arms, strict=True):
        if arm.mean < bottom:
            text = f"{arm.mean:.0%}<br>↓" if arm in labelled(conclusion, option) else "↓"
            # On a logarithmic axis, Plotly places annotations by their logarithm, unlike shapes and points.
            figure.add_annotation(x=position, y=bottom, yanchor="bottom", text=text, showarrow=False)


def _add_band(figure: go.Figure, curve: Curve) -> None:
    """The smooth curve and its band."""
    both = np.concatenate([curve.values, curve.values[::-1]])
    ends = np.concatenate([curve.high, curve.low[::-1]])
    figure.add_scatter(
        x=both,
        y=ends,
        fill="toself",
        fillcolor=BAND,
        line={"width": 0},
        hoverinfo="skip",
        name="95% band",
        mode="lines",
    )
    figure.add_scatter(
        x=curve.values, y=curve.mean, name="smooth curve", mode="lines", line={"color": VALIDATION, "width": 1.5}
    )


def heat_map(conclusion: Conclusion, options: list[str]) -> go.Figure:
    """Mean validation accuracy over two options."""
    rows, columns = (sorted({arm.results[0].values[option] for arm in conclusion.arms}) for option in options)
    accuracies = np.full((len(rows), len(columns)), math.nan)
    for arm in conclusion.arms:
        values = arm.results[0].values
        accuracies[rows.index(values[options[0]]), columns.index(values[options[1]])] = arm.mean
    trace = go.Heatmap(
        z=accuracies,
        x=[f"{value:g}" for value in columns],
        y=[f"{value:g}" for value in rows],
        colorscale="Viridis",
        texttemplate="%{z:.2%}",
        hovertemplate="%{z:.2%}",
        colorbar={"tickformat": ".1~%", "thickness": 16},
    )
    figure = go.Figure(trace)
    chosen = conclusion.chosen.results[0].values
    row, column = rows.index(chosen[options[0]]), columns.index(chosen[options[1]])
    # A category has the number of its position, and its cell reaches half of a unit to both sides.
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    figure.add_shape(type="rect", **corners, line={"color": RECOMMENDED, "width": 4})
    figure.update_xaxes(type="category", title=fold(options[1], "<br>", OPTION_LENGTH))
    figure.update_yaxes(type="category", title=fold(options[0], "<br>", OPTION_LENGTH))
    return _with_layout(figure, height=max(440, 36 * len(rows) + 160))


def forest_plot(conclusion: Conclusion) -> go.Figure:
    """One row per arm (each seed, mean and 95% interval), with a line at the baseline's mean."""
    arms = conclusion.arms[::-1]
    names = [fold(arm.name, "<br>") for arm in arms]
    figure = go.Figure(_seed_trace(arms, names, "y", "x"))
    figure.add_scatter(
        x=[arm.mean for arm in arms],
        y=names,
        error_x=_plotly_error_bars(arms),
        name="mean, 95% interval",
        mode="markers",
        marker={"color": VALIDATION, "size": 11, "symbol": "diamond"},
        hovertemplate="%{y}: %{x:.2%}<extra></extra>",
    )
    lines = [name.count("<br>") + 1 for name in names]
    if (baseline := conclusion.baseline) is not None:
        figure.add_vline(baseline.mean, line_dash="dash", line_color="#8a949e", annotation_text="baseline")
    figure.update_xaxes(title="validation accuracy", tickformat=".1~%")
    return _with_layout(figure, height=max(320, len(arms) * max(34, 17 * max(lines) + 6) + 160))


def epoch_curves(conclusion: Conclusion, metric: str, title: str, percent: bool = True) -> go.Figure:
    """The mean of a metric over seeds by epoch, one line per arm."""
    figure = go.Figure()
    for arm, style in zip(conclusion.arms, _line_styles(conclusion.arms), strict=True):
        epochs, means = _means_by_epoch([result.rows for result in arm.results], metric)
        if epochs:
            figure.add_scatter(x=epochs, y=means, name=fold(arm.name, "<br>"), mode="lines", line=style)
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=title, tickformat=".1~%" if percent else "")
    return _with_layout(figure)


def _line_styles(arms: Sequence[ArmSummary]) -> list[dict[str, str]]:
    """A color and a dash pattern per arm, which no other arm has; many values of one option have ordered colors."""
    styles = [{"color": color, "dash": dash} for dash, color in product(DASHES, ARM_COLORS)]
    is_axis = len({option for arm in arms for option in arm.results[0].values}) == 1
    if len(arms) > (len(ARM_COLORS) if is_axis else len(styles)):
        # The ends of the scale are too dark for a dark page.
        return [{"color": color} for color in sample_colorscale("Turbo", np.linspace(0.1, 0.92, len(arms)))]
    return styles[: len(arms)]


def add_weight_norm(results: Sequence[Result]) -> None:
    """Adds the norm of all weights to each row as ``weight_norm``, computed from the norms of the layers."""
    for result in results:
        for row in result.rows:
            norms = [value for name, value in row.items() if name.startswith("norm/")]
            if norms:
                row["weight_norm"] = math.sqrt(sum(norm**2 for norm in norms))


def _mean_trace(arms: Sequence[ArmSummary], x: list[float]) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=[arm.mean for arm in arms],
        error_y=_plotly_error_bars(arms),
        customdata=[[arm.name, f"{arm.timescale:.3g}" if arm.timescale else "–"] for arm in arms],
        name="validation, 95% interval",
        mode="markers",
        marker={"color": VALIDATION, "size": 9, "symbol": "diamond"},
        hovertemplate="%{customdata[0]}<br>τ = %{customdata[1]} epochs<br>mean %{y:.2%}<extra></extra>",
    )


def _seed_trace(
    arms: Sequence[ArmSummary], positions: Sequence[float | str], arm_axis: str, accuracy_axis: str
) -> go.Scatter:
    """One dot per seed, with the arms' positions on ``arm_axis`` and the accuracies on ``accuracy_axis``."""
    dots = [(position, result) for position, arm in zip(positions, arms, strict=True) for result in arm.results]
    coordinates = {arm_axis: [position for position, _ in dots], accuracy_axis: [dot.accuracy for _, dot in dots]}
    return go.Scatter(
        coordinates,
        customdata=[[result.arm, result.seed] for _, result in dots],
        name="one seed",
        mode="markers",
        marker={"color": VALIDATION, "size": 6, "opacity": 0.55},
        hovertemplate=f"%{{customdata[0]}}<br>seed %{{customdata[1]}}: %{{{accuracy_axis}:.2%}}<extra></extra>",
    )


def _plotly_error_bars(arms: Sequence[ArmSummary]) -> dict[str, Any]:
    below, above = error_bars(arms).tolist()
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _means_by_epoch(runs: list[list[Row]], metric: str) -> tuple[list[float], list[float]]:
    """The epochs in which ``metric`` was measured, and its mean over runs in each."""
    by_epoch: dict[float, list[float]] = {}
    for rows in runs:
        for row in rows:
            if metric in row:
                by_epoch.setdefault(row["epoch"], []).append(row[metric])
    return list(by_epoch), [float(np.mean(values)) for values in by_epoch.values()]


def _with_layout(figure: go.Figure, height: int = 440) -> go.Figure:
    """Transparent, so that it fits the page's light and dark themes; the page makes room for the legend at the top."""
    figure.update_xaxes(automargin=True, title_standoff=12)
    figure.update_yaxes(automargin=True, title_standoff=12)
    return figure.update_layout(
        template="none",
        height=height,
        margin={"l": 50, "r": 20, "t": 40, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "maxheight": 10_000, "font_size": 11},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a949e", "activecolor": VALIDATION},
    )
