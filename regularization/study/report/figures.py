"""The interactive figures of a report, by Plotly."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from regularization.models.objective import ACCURACY, Objective
from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.analysis.curve import Curve
from regularization.study.config import Study
from regularization.study.report.axes import (
    MIN_DISTANCE,
    OPTION_LENGTH,
    arm_positions,
    axis_name,
    below_range,
    error_bars,
    fold,
    labelled,
    value_axis,
    value_range,
)
from regularization.study.report.colors import BAND, CLEAN, NEUTRAL, RECOMMENDED, VALIDATION, line_styles
from regularization.study.results import Result, Row

# Font size of the text in the cells of a heat map, in pixels.
FONT = 11


def main_figure(conclusion: Conclusion, study: Study) -> go.Figure:
    """The λ curve for one axis, the heat map for two axes, or the forest plot for named arms."""
    if study.axis:
        return lambda_curve(conclusion, study.axis)
    if len(study.vary) == 2:
        objective = conclusion.chosen.objective
        return heat_map(conclusion, list(study.vary), objective.metric, value_axis(conclusion)[1])
    return forest_plot(conclusion)


def lambda_curve(conclusion: Conclusion, option: str) -> go.Figure:
    """The objective against λ (each seed, mean and 95% interval); for validation accuracy, also the clean training one.

    λ has a logarithmic axis, with 0 at its left end. The smooth curve is drawn with its 95% band.
    """
    arms, x = conclusion.arms, log_axis(conclusion, option)
    figure = go.Figure()
    if conclusion.curve is not None:
        _add_band(figure, conclusion.curve)
    if conclusion.chosen.objective == ACCURACY:
        clean, line = [arm.average("clean_accuracy") for arm in arms], {"color": CLEAN, "dash": "dot"}
        figure.add_scatter(x=x, y=clean, name="clean training", mode="lines+markers", line=line)
    figure.add_trace(_mean_trace(arms, x))
    figure.add_trace(_seed_trace(arms, x, "x", "y"))
    line = {"dash": "dash", "color": RECOMMENDED}
    figure.add_vline(x[arms.index(conclusion.chosen)], line=line, name="recommended", showlegend=True)
    label_axis(figure, conclusion, option)
    _limit_values(figure, conclusion, option)
    return with_layout(figure)


def log_axis(conclusion: Conclusion, option: str) -> list[float]:
    """The positions of the arms on a logarithmic axis; λ = 0 has a position, too."""
    return [10**position for position in arm_positions(conclusion, option)]


def label_axis(figure: go.Figure, conclusion: Conclusion, option: str, min_distance: float = MIN_DISTANCE) -> None:
    """Names the axis of ``option``, and writes the values of the arms where there is space."""
    shown = labelled(conclusion, option, min_distance)
    ticks = [at for at, arm in zip(log_axis(conclusion, option), conclusion.arms, strict=True) if arm in shown]
    labels = [f"{arm.results[0].values[option]:g}" for arm in shown]
    title = fold(axis_name(option), "<br>", OPTION_LENGTH)
    figure.update_xaxes(type="log", title=title, tickvals=ticks, ticktext=labels)


def _limit_values(figure: go.Figure, conclusion: Conclusion, option: str) -> None:
    """Sets the range of the axis, and marks the arms below it."""
    bottom, top = value_range(conclusion)
    title, spec = value_axis(conclusion)
    title = "accuracy" if conclusion.chosen.objective == ACCURACY else title
    figure.update_yaxes(title=title, tickformat=spec, range=[bottom, top])
    below = below_range(conclusion)
    named = labelled(conclusion, option, among=below)
    for position, arm in zip(arm_positions(conclusion, option), conclusion.arms, strict=True):
        if arm in below:
            text = f"{arm.mean:.0%}<br>↓" if arm in named else "↓"
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


def heat_map(conclusion: Conclusion, options: list[str], metric: str = "val_accuracy", spec: str = ".1~%") -> go.Figure:
    """The mean of a metric over two options, by default the validation accuracy."""
    rows, columns = (sorted({arm.results[0].values[option] for arm in conclusion.arms}) for option in options)
    means = np.full((len(rows), len(columns)), math.nan)
    for arm in conclusion.arms:
        values = arm.results[0].values
        means[rows.index(values[options[0]]), columns.index(values[options[1]])] = arm.average(metric)
    trace = go.Heatmap(
        z=means,
        x=[f"{value:g}" for value in columns],
        y=[f"{value:g}" for value in rows],
        colorscale="Viridis",
        texttemplate=f"%{{z:{spec}}}",
        textfont={"size": FONT},
        hovertemplate=f"%{{x}}, %{{y}}: %{{z:{spec}}}<extra></extra>",
        colorbar={"tickformat": spec, "thickness": 12},
    )
    figure = go.Figure(trace)
    chosen = conclusion.chosen.results[0].values
    row, column = rows.index(chosen[options[0]]), columns.index(chosen[options[1]])
    # The coordinate of a category is its index, and its cell extends half a unit to both sides.
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    figure.add_shape(type="rect", **corners, line={"color": CLEAN, "width": 4})
    figure.update_xaxes(type="category", title=axis_name(options[1]))
    figure.update_yaxes(type="category", title=axis_name(options[0]))
    return with_layout(figure, max(300, 36 * len(rows) + 160), legend=False)


def forest_plot(conclusion: Conclusion) -> go.Figure:
    """One row per arm (each seed, mean and 95% interval), with a line at the baseline's mean."""
    arms = conclusion.arms[::-1]
    names = [fold(arm.name, "<br>") for arm in arms]
    title, spec = value_axis(conclusion)
    figure = go.Figure(_seed_trace(arms, names, "y", "x"))
    figure.add_scatter(
        x=[arm.mean for arm in arms],
        y=names,
        error_x=_plotly_error_bars(arms),
        name="mean, 95% interval",
        mode="markers",
        marker={"color": VALIDATION, "size": 11, "symbol": "diamond"},
        hovertemplate=f"%{{y}}: %{{x:{_precise(arms)}}}<extra></extra>",
    )
    if (baseline := conclusion.baseline) is not None:
        figure.add_vline(baseline.mean, line_dash="dash", line_color=NEUTRAL, annotation_text="baseline")
    shown = [value for arm in arms for value in (arm.low, arm.high, *arm.values)]
    figure.update_xaxes(title=title, tickformat=spec, range=_limits(shown, conclusion.chosen.objective))
    return with_layout(figure, rows_height(names, 34))


def rows_height(names: Sequence[str], row: int) -> int:
    """The height of a figure with a row for each of these names, ``row`` pixels or as high as the name."""
    lines = max(name.count("<br>") + 1 for name in names)
    return max(320, len(names) * max(row, 17 * lines + 6) + 160)


def _limits(values: Sequence[float], objective: Objective = ACCURACY) -> tuple[float, float]:
    """A range of values with some space at both ends, but without values that the metric cannot have."""
    shown = [value for value in values if math.isfinite(value)]
    margin = 0.05 * (max(shown) - min(shown)) or 0.01
    return max(objective.lowest, min(shown) - margin), min(objective.highest, max(shown) + margin)


def epoch_curves(conclusion: Conclusion, metric: str, title: str, percent: bool = True) -> go.Figure:
    """The mean of a metric over seeds by epoch, which is counted from 1; one line per arm.

    The baseline and the recommended one are drawn thicker than the others.
    """
    figure = go.Figure()
    last = 1.0
    for arm, style in zip(conclusion.arms, line_styles(conclusion.arms), strict=True):
        epochs, means = _means_by_epoch([result.rows for result in arm.results], metric)
        if epochs:
            last = max(last, *epochs)
            line = style | {"width": 3 if arm in (conclusion.chosen, conclusion.baseline) else 1.5}
            figure.add_scatter(x=epochs, y=means, name=fold(arm.name, "<br>"), mode="lines", line=line)
    figure.update_xaxes(title="epoch", tickformat="d", dtick=_epoch_step(last), tick0=0)
    if percent and metric.startswith("val_"):
        figure.update_yaxes(range=_limits([value for trace in figure.data for value in trace.y] or [0.0, 1.0]))
    figure.update_yaxes(title=title, tickformat=".1~%" if percent else "")
    return with_layout(figure)


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
        hovertemplate="%{customdata[0]}<br>τ = %{customdata[1]} epochs<br>mean %{y:"
        + _precise(arms)
        + "}<extra></extra>",
    )


def _seed_trace(
    arms: Sequence[ArmSummary], positions: Sequence[float | str], arm_axis: str, objective_axis: str
) -> go.Scatter:
    """One dot per seed, with the arms' positions on ``arm_axis`` and the objective on ``objective_axis``."""
    metric, value = arms[0].objective.metric, f"%{{{objective_axis}:{_precise(arms)}}}"
    dots = [(position, result) for position, arm in zip(positions, arms, strict=True) for result in arm.results]
    coordinates = {
        arm_axis: [position for position, _ in dots],
        objective_axis: [dot.metric(metric) for _, dot in dots],
    }
    return go.Scatter(
        coordinates,
        customdata=[[result.arm, result.seed] for _, result in dots],
        name="one trial",
        mode="markers",
        marker={"color": VALIDATION, "size": 6, "opacity": 0.55},
        hovertemplate=f"%{{customdata[0]}}<br>seed %{{customdata[1]}}: {value}<extra></extra>",
    )


def _precise(arms: Sequence[ArmSummary]) -> str:
    """Plotly's format of the objective of a single point."""
    objective = arms[0].objective
    return ".2%" if objective.is_fraction else ".4f" if objective.is_known else ".5~g"


def _plotly_error_bars(arms: Sequence[ArmSummary]) -> dict[str, Any]:
    below, above = error_bars(arms).tolist()
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _epoch_step(epochs: float) -> int:
    """A round number of epochs between two ticks, so that there are at most ten ticks."""
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if 10 * step >= epochs:
                return step
        power *= 10


def _means_by_epoch(runs: list[list[Row]], metric: str) -> tuple[list[float], list[float]]:
    """The epochs, counted from 1, in which ``metric`` was measured, and its mean over runs in each."""
    by_epoch: dict[float, list[float]] = {}
    for rows in runs:
        for row in rows:
            if metric in row:
                by_epoch.setdefault(row["epoch"] + 1, []).append(row[metric])
    return list(by_epoch), [float(np.mean(values)) for values in by_epoch.values()]


def with_layout(figure: go.Figure, height: int = 440, legend: bool = True) -> go.Figure:
    """Makes the figure transparent, to fit light and dark themes; the page makes room for the legend at the top."""
    figure.update_xaxes(automargin=True, title_standoff=12)
    figure.update_yaxes(automargin=True, title_standoff=12)
    return figure.update_layout(
        template="none",
        showlegend=legend,
        height=height,
        margin={"l": 50, "r": 20, "t": 40, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "maxheight": 10_000, "font_size": 11},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": NEUTRAL, "activecolor": VALIDATION},
    )
