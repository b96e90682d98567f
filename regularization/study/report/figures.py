"""The figures of a report: interactive ones by Plotly for the page, and one by Matplotlib for papers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from plotly.colors import qualitative

from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.comparison import COLLAPSE
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.analysis.curve import Curve
from regularization.study.config import Study
from regularization.study.results import Result, Row

VALIDATION, CLEAN, RECOMMENDED = "#2a78b5", "#d1603d", "#3a9a5b"
BAND = "rgba(42, 120, 181, 0.16)"
ARM_COLORS = qualitative.D3


def main_figure(conclusion: Conclusion, study: Study) -> go.Figure:
    """The λ curve for one axis, the heat map for two axes, or the forest plot for named arms."""
    if study.axis:
        return lambda_curve(conclusion, study.axis)
    return heat_map(conclusion, list(study.vary)) if len(study.vary) == 2 else forest_plot(conclusion)


def lambda_curve(conclusion: Conclusion, option: str) -> go.Figure:
    """Validation accuracy against λ (each seed, mean and 95% interval), and clean training accuracy.

    λ has a logarithmic axis, with 0 at its left end. The smooth curve is drawn with its 95% band.
    """
    arms = conclusion.arms
    positions, labels = _ticks(arms, option)
    x = [10**position for position in positions]
    figure = go.Figure()
    if conclusion.curve is not None:
        _add_band(figure, conclusion.curve)
    clean = [arm.average("clean_accuracy") for arm in arms]
    figure.add_scatter(x=x, y=clean, name="clean training", mode="lines+markers", line={"color": CLEAN, "dash": "dot"})
    figure.add_trace(_mean_trace(arms, x))
    figure.add_trace(_seed_trace(arms, x, "x", "y"))
    figure.add_vline(x[arms.index(conclusion.chosen)], line_dash="dash", line_color=RECOMMENDED)
    figure.update_xaxes(type="log", title=option, tickvals=x, ticktext=labels)
    _limit_accuracies(figure, conclusion, positions)
    return _with_layout(figure)


def _limit_accuracies(figure: go.Figure, conclusion: Conclusion, positions: Sequence[float]) -> None:
    """Sets the range of the axis, and names the arms below it."""
    bottom, top = _accuracy_range(conclusion)
    figure.update_yaxes(title="accuracy", tickformat=".1~%", range=[bottom, top])
    for position, arm in zip(positions, conclusion.arms, strict=True):
        if arm.mean < bottom:
            # On a logarithmic axis, Plotly places annotations by their logarithm, unlike shapes and points.
            figure.add_annotation(x=position, y=bottom, yanchor="bottom", text=f"↓ {arm.mean:.0%}", showarrow=False)


def _accuracy_range(conclusion: Conclusion) -> tuple[float, float]:
    """The range of accuracies around the curve; arms far below the best are named at its lower edge."""
    best = max(arm.mean for arm in conclusion.arms)
    near = [arm for arm in conclusion.arms if arm.mean > best - COLLAPSE]
    shown = [
        value for arm in near for value in (*arm.accuracies, arm.average("clean_accuracy")) if math.isfinite(value)
    ]
    margin = 0.15 * (max(shown) - min(shown)) or 0.01
    return min(shown) - margin, max(shown) + margin


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


def log_positions(values: Sequence[float]) -> list[float]:
    """log₁₀ of each value; 0 is placed to the left of the smallest positive value."""
    logs = [math.log10(value) for value in values if value > 0]
    gap = max(0.5, (max(logs) - min(logs)) / 6) if logs else 1.0
    return [math.log10(value) if value > 0 else (min(logs, default=0.0) - gap) for value in values]


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
    )
    figure = go.Figure(trace)
    _frame_chosen(figure, conclusion, options)
    figure.update_xaxes(type="category", title=options[1])
    figure.update_yaxes(type="category", title=options[0])
    return _with_layout(figure)


def _frame_chosen(figure: go.Figure, conclusion: Conclusion, options: list[str]) -> None:
    """A frame around the recommended cell."""
    chosen = conclusion.chosen.results[0].values
    figure.add_scatter(
        x=[f"{chosen[options[1]]:g}"],
        y=[f"{chosen[options[0]]:g}"],
        name="recommended",
        mode="markers",
        marker={"symbol": "square-open", "size": 58, "color": RECOMMENDED, "line": {"width": 3}},
        hoverinfo="skip",
    )


def forest_plot(conclusion: Conclusion) -> go.Figure:
    """One row per arm (each seed, mean and 95% interval), with a line at the baseline's mean."""
    arms = conclusion.arms[::-1]
    names = [arm.name for arm in arms]
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
    if (baseline := conclusion.baseline) is not None:
        figure.add_vline(baseline.mean, line_dash="dash", line_color="#8a949e", annotation_text=baseline.name)
    figure.update_xaxes(title="validation accuracy", tickformat=".1~%")
    return _with_layout(figure, height=max(320, 60 * len(arms) + 160))


def epoch_curves(conclusion: Conclusion, metric: str, title: str, percent: bool = True) -> go.Figure:
    """The mean of a metric over seeds by epoch, one line per arm."""
    figure = go.Figure()
    for index, arm in enumerate(conclusion.arms):
        epochs, means = _means_by_epoch([result.rows for result in arm.results], metric)
        if epochs:
            color = ARM_COLORS[index % len(ARM_COLORS)]
            figure.add_scatter(x=epochs, y=means, name=arm.name, mode="lines", line={"color": color})
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=title, tickformat=".1~%" if percent else "")
    return _with_layout(figure)


def add_weight_norm(results: Sequence[Result]) -> None:
    """Adds the norm of all weights to each row as ``weight_norm``, computed from the norms of the layers."""
    for result in results:
        for row in result.rows:
            norms = [value for name, value in row.items() if name.startswith("norm/")]
            if norms:
                row["weight_norm"] = math.sqrt(sum(norm**2 for norm in norms))


def paper_figure(conclusion: Conclusion, study: Study) -> Figure:
    """The main figure for papers: the λ curve for one axis, else the forest plot."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if study.axis:
        _draw_lambda_curve(axes, conclusion, study.axis)
    else:
        _draw_forest_plot(axes, conclusion)
    axes.grid(alpha=0.3)
    return figure


def _draw_lambda_curve(axes: Axes, conclusion: Conclusion, option: str) -> None:
    arms = conclusion.arms
    positions, labels = _ticks(arms, option)
    if (curve := conclusion.curve) is not None:
        logs = np.log10(curve.values)
        axes.fill_between(logs, curve.low, curve.high, color=VALIDATION, alpha=0.16, lw=0)
        axes.plot(logs, curve.mean, color=VALIDATION, lw=1.2, label="smooth curve, 95% band")
    for position, arm in zip(positions, arms, strict=True):
        axes.plot([position] * len(arm.results), arm.accuracies, "o", color=VALIDATION, alpha=0.4, markersize=4)
    clean = [arm.average("clean_accuracy") for arm in arms]
    axes.plot(positions, clean, "o:", color=CLEAN, markersize=4, label="clean training accuracy")
    means, label = [arm.mean for arm in arms], "validation, mean and 95% interval"
    axes.errorbar(positions, means, _error_bars(arms), color=VALIDATION, fmt="D", markersize=5, capsize=3, label=label)
    bottom, top = _accuracy_range(conclusion)
    axes.set_ylim(bottom, top)
    for position, arm in zip(positions, arms, strict=True):
        if arm.mean < bottom:
            axes.text(position, bottom, f"↓ {arm.mean:.0%}", ha="center", va="bottom", fontsize=8)
    recommended = positions[arms.index(conclusion.chosen)]
    axes.axvline(recommended, color=RECOMMENDED, linestyle="--", label="recommended")
    axes.set_xticks(positions, labels)
    axes.set_xlabel(option)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=8)


def _draw_forest_plot(axes: Axes, conclusion: Conclusion) -> None:
    arms = conclusion.arms[::-1]
    for index, arm in enumerate(arms):
        axes.plot(arm.accuracies, [index] * len(arm.results), "o", color=VALIDATION, alpha=0.4, markersize=4)
    means = [arm.mean for arm in arms]
    axes.errorbar(means, range(len(arms)), xerr=_error_bars(arms), fmt="D", color=VALIDATION, capsize=3)
    if conclusion.baseline is not None:
        axes.axvline(conclusion.baseline.mean, color="grey", linestyle="--")
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axes.set_xlabel("validation accuracy, mean and 95% interval over seeds")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))


def _ticks(arms: Sequence[ArmSummary], option: str) -> tuple[list[float], list[str]]:
    """Positions on the logarithmic axis, and labels, of the arms' values of ``option``."""
    values = [arm.results[0].values[option] for arm in arms]
    return log_positions(values), [f"{value:g}" for value in values]


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


def _error_bars(arms: Sequence[ArmSummary]) -> NDArray[np.float64]:
    """Distances from the mean to the ends of its interval, ``(2, arms)``; 0, hence no bar, for an arm with one seed."""
    ends = np.array([(arm.mean - arm.low, arm.high - arm.mean) for arm in arms], dtype=np.float64)
    bars: NDArray[np.float64] = np.nan_to_num(ends).clip(0).T
    return bars


def _plotly_error_bars(arms: Sequence[ArmSummary]) -> dict[str, Any]:
    below, above = _error_bars(arms).tolist()
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
    """Transparent, so that it fits the page's light and dark themes; the legend below, for narrow screens."""
    return figure.update_layout(
        template="none",
        height=height,
        margin={"l": 70, "r": 20, "t": 40, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.22},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a949e", "activecolor": VALIDATION},
        yaxis={"automargin": True},
    )
