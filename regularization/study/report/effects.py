"""Figures of metrics other than the accuracy: loss, calibration and norms by arm, and layer norms by λ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from scipy import stats

from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.comparison import ALPHA
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.config import Study
from regularization.study.report import figures
from regularization.study.report.axes import axis_name, fold
from regularization.study.report.colors import NEUTRAL, RECOMMENDED, VALIDATION

LAYER = "norm/"
# Heights in pixels: of a small figure, and of a row in a figure with many rows.
HEIGHT, ROW = 340, 22


@dataclass(frozen=True)
class Effect:
    """A metric besides the accuracy: its name in the rows, its heading, the label of its axis, and its format."""

    metric: str
    title: str
    label: str
    spec: str


EFFECTS = (
    Effect("weight_norm", "Norm of all weights", "‖w‖", ".3~g"),
    Effect("val_loss", "Validation loss (NLL)", "validation loss", ".3~g"),
    Effect("val_calibration_error", "Calibration error (ECE)", "calibration error", ".3~g"),
)


def effect_figures(conclusion: Conclusion, study: Study) -> list[tuple[str, go.Figure]]:
    """One small figure per effect that was measured, with its heading."""
    measured = [it for it in EFFECTS if any(math.isfinite(arm.average(it.metric)) for arm in conclusion.arms)]
    return [(effect.title, _figure(conclusion, study, effect)) for effect in measured]


def _figure(conclusion: Conclusion, study: Study, effect: Effect) -> go.Figure:
    if study.axis:
        return _curve(conclusion, study.axis, effect)
    if len(study.vary) == 2:
        return figures.heat_map(conclusion, list(study.vary), effect.metric, effect.spec)
    return _rows(conclusion, effect)


def _curve(conclusion: Conclusion, option: str, effect: Effect) -> go.Figure:
    """The metric against λ: each seed, and the mean with its 95% interval."""
    x, arms = figures.log_axis(conclusion, option), conclusion.arms
    dots = [(at, result) for at, arm in zip(x, arms, strict=True) for result in arm.results]
    figure = go.Figure(
        go.Scatter(
            x=[at for at, _ in dots],
            y=[_finite(result.metric(effect.metric)) for _, result in dots],
            mode="markers",
            marker={"color": VALIDATION, "size": 5, "opacity": 0.55},
            hoverinfo="skip",
        )
    )
    figure.add_scatter(
        x=x,
        y=[_finite(arm.average(effect.metric)) for arm in arms],
        error_y=_bars(arms, effect.metric),
        mode="lines+markers",
        line={"color": VALIDATION},
        marker={"size": 7, "symbol": "diamond"},
        hovertemplate=f"%{{customdata}}: %{{y:{effect.spec}}}<extra></extra>",
        customdata=[arm.name for arm in arms],
    )
    figure.add_vline(x[arms.index(conclusion.chosen)], line_dash="dash", line_color=RECOMMENDED)
    figure.update_yaxes(title=effect.label, tickformat=effect.spec, rangemode="tozero")
    figures.label_axis(figure, conclusion, option, min_distance=0.15)
    return figures.with_layout(figure, HEIGHT, legend=False)


def _rows(conclusion: Conclusion, effect: Effect) -> go.Figure:
    """One row per arm: the mean with its 95% interval, and a line at the baseline's."""
    arms = conclusion.arms[::-1]
    names = [fold(arm.name, "<br>") for arm in arms]
    figure = go.Figure(
        go.Scatter(
            x=[_finite(arm.average(effect.metric)) for arm in arms],
            y=names,
            error_x=_bars(arms, effect.metric),
            mode="markers",
            marker={"color": VALIDATION, "size": 9, "symbol": "diamond"},
            hovertemplate=f"%{{y}}: %{{x:{effect.spec}}}<extra></extra>",
        )
    )
    if conclusion.baseline is not None and math.isfinite(conclusion.baseline.average(effect.metric)):
        figure.add_vline(conclusion.baseline.average(effect.metric), line_dash="dash", line_color=NEUTRAL)
    figure.update_xaxes(title=effect.label, tickformat=effect.spec, nticks=5)
    return figures.with_layout(figure, max(HEIGHT, figures.rows_height(names, ROW)), legend=False)


def layer_norms(conclusion: Conclusion, option: str) -> go.Figure | None:
    """The norm of each layer by λ, as a share of its norm at the smallest λ; None if it was not measured.

    A row per layer, the first one at the top; the number in a cell is the mean norm over seeds.
    """
    names = [name for name in conclusion.arms[0].results[0].row if name.startswith(LAYER)]
    norms = np.array([[arm.average(name) for arm in conclusion.arms] for name in names])
    if len(names) < 2 or not np.isfinite(norms).all() or (norms[:, 0] <= 0).any():
        return None
    labels = [fold(name.removeprefix(LAYER), "<br>") for name in names]
    trace = go.Heatmap(
        z=norms / norms[:, :1],
        x=[f"{arm.results[0].values[option]:g}" for arm in conclusion.arms],
        y=labels,
        zmin=0,
        colorscale="Cividis",
        text=norms,
        texttemplate="%{text:.3~g}",
        textfont={"size": 11},
        hovertemplate="%{y}, λ = %{x}: ‖w‖ = %{text:.3~g}, %{z:.0%} of that at the smallest λ<extra></extra>",
        colorbar={"tickformat": ".0%", "thickness": 14},
    )
    figure = go.Figure(trace)
    figure.update_xaxes(type="category", title=axis_name(option))
    figure.update_yaxes(type="category", autorange="reversed")
    return figures.with_layout(figure, max(HEIGHT + 20, figures.rows_height(labels, ROW)), legend=False)


def _bars(arms: Sequence[ArmSummary], metric: str) -> dict[str, object]:
    """The 95% intervals of the mean over seeds, as Plotly's error bars; 0 for an arm with one seed."""
    halves = []
    for arm in arms:
        values = [value for result in arm.results if math.isfinite(value := result.metric(metric))]
        deviation = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        halves.append(float(stats.t.isf(ALPHA / 2, max(1, len(values) - 1)) * deviation))
    return {"type": "data", "array": halves}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
