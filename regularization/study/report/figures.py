"""The figures of a report: interactive ones by Plotly for the page, and one picture for papers."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import PercentFormatter
from plotly.colors import qualitative

from regularization.study.conclusion import ArmSummary, Conclusion
from regularization.study.config import Study
from regularization.study.results import Result, Row

VAL, CLEAN = "#2a78b5", "#d1603d"
SHADES = {"underfits": "rgba(209, 96, 61, 0.12)", "hardly acts": "rgba(128, 128, 128, 0.14)"}
COLORS = qualitative.D3


def main_figure(found: Conclusion, study: Study) -> go.Figure:
    """The λ curve of one axis, the heat map of two, or the arms one below the other."""
    if study.axis:
        return lambda_curve(found, study.axis)
    return heat_map(found, list(study.vary)) if len(study.vary) == 2 else forest(found)


def lambda_curve(found: Conclusion, option: str) -> go.Figure:
    """Validation accuracy against λ: every seed a dot, mean and 95% interval; clean training accuracy beside it.

    λ is on a log axis, with 0 apart at its left; regions where it underfits or hardly acts are shaded.
    """
    places = positions([arm.results[0].values[option] for arm in found.arms])
    figure = go.Figure()
    for start, end, effect in regions(found.arms, places):
        figure.add_vrect(10**start, 10**end, fillcolor=SHADES[effect], line_width=0)
        # An annotation's place on a log axis is the logarithm, a shape's is not.
        figure.add_annotation(x=(start + end) / 2, y=1.07, yref="paper", text=effect, showarrow=False)
    x = [10**place for place in places]
    clean = [arm.average("clean_accuracy") for arm in found.arms]
    figure.add_scatter(x=x, y=clean, name="clean training", mode="lines+markers", line={"color": CLEAN, "dash": "dot"})
    _add_means(figure, found.arms, x)
    dots = [(place, result) for place, arm in zip(x, found.arms, strict=True) for result in arm.results]
    figure.add_scatter(
        x=[place for place, _ in dots],
        y=[result.accuracy for _, result in dots],
        customdata=[[result.arm, result.seed] for _, result in dots],
        name="a seed",
        mode="markers",
        marker={"color": VAL, "size": 6, "opacity": 0.55},
        hovertemplate="%{customdata[0]}<br>seed %{customdata[1]}: %{y:.2%}<extra></extra>",
    )
    figure.add_vline(x[found.arms.index(found.chosen)], line_dash="dash", line_color="#3a9a5b")
    labels = [f"{arm.results[0].values[option]:g}" for arm in found.arms]
    figure.update_xaxes(type="log", title=option, tickvals=x, ticktext=labels)
    figure.update_yaxes(title="accuracy", tickformat=".1~%")
    return _laid_out(figure)


def positions(values: Sequence[float]) -> list[float]:
    """log₁₀ of each value; 0 stands a little to the left of the smallest of the others."""
    logs = [math.log10(value) for value in values if value > 0]
    gap = max(0.5, (max(logs) - min(logs)) / 6) if logs else 1.0
    return [math.log10(value) if value > 0 else (min(logs, default=0.0) - gap) for value in values]


def regions(arms: Sequence[ArmSummary], places: Sequence[float]) -> list[tuple[float, float, str]]:
    """(from, to, effect) on the log axis: neighbours with the same effect, to half-way to the next arm."""
    found: list[tuple[float, float, str]] = []
    for number, arm in enumerate(arms):
        if not arm.effect:
            continue
        left = (places[number - 1] + places[number]) / 2 if number else places[number] - 0.25
        right = (places[number] + places[number + 1]) / 2 if number + 1 < len(arms) else places[number] + 0.25
        if found and found[-1][1:] == (left, arm.effect):
            found[-1] = (found[-1][0], right, arm.effect)
        else:
            found.append((left, right, arm.effect))
    return found


def heat_map(found: Conclusion, options: list[str]) -> go.Figure:
    """Mean validation accuracy over two options."""
    rows, columns = (sorted({arm.results[0].values[option] for arm in found.arms}) for option in options)
    grid = np.full((len(rows), len(columns)), math.nan)
    for arm in found.arms:
        values = arm.results[0].values
        grid[rows.index(values[options[0]]), columns.index(values[options[1]])] = arm.mean
    names = [[f"{value:g}" for value in values] for values in (columns, rows)]
    figure = go.Figure(
        go.Heatmap(
            z=grid, x=names[0], y=names[1], colorscale="Viridis", texttemplate="%{z:.2%}", hovertemplate="%{z:.2%}"
        )
    )
    figure.update_xaxes(type="category", title=options[1])
    figure.update_yaxes(type="category", title=options[0])
    return _laid_out(figure)


def forest(found: Conclusion) -> go.Figure:
    """The arms one below the other: every seed, mean and 95% interval; the baseline's mean as a line."""
    figure = go.Figure()
    arms = found.arms[::-1]
    seeds = [(arm.name, result) for arm in arms for result in arm.results]
    figure.add_scatter(
        x=[result.accuracy for _, result in seeds],
        y=[name for name, _ in seeds],
        customdata=[result.seed for _, result in seeds],
        name="a seed",
        mode="markers",
        marker={"color": VAL, "size": 6, "opacity": 0.55},
        hovertemplate="%{y}<br>seed %{customdata}: %{x:.2%}<extra></extra>",
    )
    figure.add_scatter(
        x=[arm.mean for arm in arms],
        y=[arm.name for arm in arms],
        error_x={"type": "data", "array": _halves(arms)},
        name="mean, 95% interval",
        mode="markers",
        marker={"color": VAL, "size": 11, "symbol": "diamond"},
        hovertemplate="%{y}: %{x:.2%}<extra></extra>",
    )
    if found.baseline is not None:
        figure.add_vline(
            found.baseline.mean, line_dash="dash", line_color="#8a949e", annotation_text=found.baseline.name
        )
    figure.update_xaxes(title="validation accuracy", tickformat=".1~%")
    return _laid_out(figure, height=max(320, 60 * len(arms) + 160))


def over_epochs(found: Conclusion, metric: str, title: str, share: bool = True) -> go.Figure:
    """Mean over seeds of a metric in each epoch, an arm a line."""
    figure = go.Figure()
    for number, arm in enumerate(found.arms):
        epochs, means = _means([result.rows for result in arm.results], metric)
        if epochs:
            color = COLORS[number % len(COLORS)]
            figure.add_scatter(x=epochs, y=means, name=arm.name, mode="lines", line={"color": color})
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=title, tickformat=".1~%" if share else "")
    return _laid_out(figure)


def with_norm(results: Sequence[Result]) -> None:
    """Adds to each row the norm of all weights, from those of the layers."""
    for result in results:
        for row in result.rows:
            norms = [value for name, value in row.items() if name.startswith("norm/")]
            if norms:
                row["weight_norm"] = math.sqrt(sum(norm**2 for norm in norms))


def picture(found: Conclusion, study: Study) -> Picture:
    """The main figure for papers."""
    drawn = Picture(figsize=(7, 4.2), layout="constrained")
    axes = drawn.subplots()
    if study.axis:
        _draw_curve(axes, found, study.axis)
    else:
        _draw_forest(axes, found)
    axes.grid(alpha=0.3)
    return drawn


def _draw_curve(axes: Axes, found: Conclusion, option: str) -> None:
    places = positions([arm.results[0].values[option] for arm in found.arms])
    for start, end, effect in regions(found.arms, places):
        axes.axvspan(start, end, color=CLEAN if effect == "underfits" else "grey", alpha=0.12, lw=0)
        axes.text((start + end) / 2, 1.01, effect, ha="center", fontsize=8, transform=axes.get_xaxis_transform())
    for place, arm in zip(places, found.arms, strict=True):
        axes.plot([place] * len(arm.results), arm.accuracies, "o", color=VAL, alpha=0.4, markersize=4)
    clean = [arm.average("clean_accuracy") for arm in found.arms]
    axes.plot(places, clean, "o:", color=CLEAN, markersize=4, label="clean training accuracy")
    means = [arm.mean for arm in found.arms]
    axes.errorbar(
        places, means, _halves(found.arms), color=VAL, marker="D", capsize=3, label="validation, mean and 95% interval"
    )
    axes.axvline(places[found.arms.index(found.chosen)], color="#3a9a5b", linestyle="--", label="recommended")
    axes.set_xticks(places, [f"{arm.results[0].values[option]:g}" for arm in found.arms])
    axes.set_xlabel(option)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=8)


def _draw_forest(axes: Axes, found: Conclusion) -> None:
    arms = found.arms[::-1]
    for place, arm in enumerate(arms):
        axes.plot(arm.accuracies, [place] * len(arm.results), "o", color=VAL, alpha=0.4, markersize=4)
    axes.errorbar([arm.mean for arm in arms], range(len(arms)), xerr=_halves(arms), fmt="D", color=VAL, capsize=3)
    if found.baseline is not None:
        axes.axvline(found.baseline.mean, color="grey", linestyle="--")
    axes.set_yticks(range(len(arms)), [arm.name for arm in arms])
    axes.set_xlabel("validation accuracy, mean and 95% interval over seeds")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))


def _add_means(figure: go.Figure, arms: Sequence[ArmSummary], x: list[float]) -> None:
    figure.add_scatter(
        x=x,
        y=[arm.mean for arm in arms],
        error_y={"type": "data", "array": _halves(arms)},
        customdata=[[arm.name, f"{arm.timescale:.3g}" if arm.timescale else "–"] for arm in arms],
        name="validation, 95% interval",
        mode="lines+markers",
        line={"color": VAL},
        marker={"size": 9, "symbol": "diamond"},
        hovertemplate="%{customdata[0]}<br>τ = %{customdata[1]} epochs<br>mean %{y:.2%}<extra></extra>",
    )


def _halves(arms: Sequence[ArmSummary]) -> list[float]:
    """An interval that is unknown, with one seed, is not drawn."""
    return [0.0 if math.isnan(arm.ci_half_width) else arm.ci_half_width for arm in arms]


def _means(runs: list[list[Row]], metric: str) -> tuple[list[float], list[float]]:
    by_epoch: dict[float, list[float]] = {}
    for rows in runs:
        for row in rows:
            if metric in row:
                by_epoch.setdefault(row["epoch"], []).append(row[metric])
    return list(by_epoch), [float(np.mean(values)) for values in by_epoch.values()]


def _laid_out(figure: go.Figure, height: int = 440) -> go.Figure:
    """Transparent, so that the page's light or dark shows through; the legend below, for narrow screens."""
    return figure.update_layout(
        template="none",
        height=height,
        margin={"l": 70, "r": 20, "t": 40, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.22},
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#8a949e", "activecolor": VAL},
        yaxis={"automargin": True},
    )
