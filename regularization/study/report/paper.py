"""The figure for papers, by Matplotlib."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from regularization.models.objective import ACCURACY
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.config import Study
from regularization.study.report.axes import (
    arm_positions,
    axis_name,
    below_range,
    error_bars,
    fold,
    labelled,
    value_range,
)
from regularization.study.report.colors import CLEAN, NEUTRAL, RECOMMENDED, VALIDATION

# Sizes in inches.
WIDTH, HEIGHT, LINE_HEIGHT = 7.0, 4.2, 0.22
CELL_WIDTH, CELL_HEIGHT = 0.6, 0.42


def paper_figure(conclusion: Conclusion, study: Study) -> Figure:
    """The main figure for papers: the λ curve for one axis, the heat map for two, or the forest plot for named arms."""
    if len(study.vary) == 2:
        return _heat_map(conclusion, list(study.vary))
    names = [fold(arm.name, "\n") for arm in conclusion.arms[::-1]]
    lines = 0 if study.axis else sum(name.count("\n") + 1 for name in names)
    figure = Figure(figsize=(WIDTH, max(HEIGHT, LINE_HEIGHT * lines + 1)), layout="constrained")
    axes = figure.subplots()
    if study.axis:
        _draw_lambda_curve(axes, conclusion, study.axis)
        # The legend is outside of the axes, so that it covers no arm.
        figure.legend(frameon=False, fontsize=8, ncols=2, loc="outside upper center")
    else:
        _draw_forest_plot(axes, conclusion, names)
    axes.grid(alpha=0.3)
    return figure


def _heat_map(conclusion: Conclusion, options: list[str]) -> Figure:
    """The mean objective over two options, with a frame around the recommended cell."""
    values = [arm.results[0].values for arm in conclusion.arms]
    rows, columns = (sorted({each[option] for each in values}) for option in options)
    means = np.full((len(rows), len(columns)), np.nan)
    for arm, each in zip(conclusion.arms, values, strict=True):
        means[rows.index(each[options[0]]), columns.index(each[options[1]])] = arm.mean
    height = max(2.4, CELL_HEIGHT * len(rows) + 1)
    figure = Figure(figsize=(max(WIDTH, CELL_WIDTH * len(columns) + 2), height), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(means, cmap="viridis", aspect="auto", origin="lower")
    middle = (np.nanmin(means) + np.nanmax(means)) / 2
    for (row, column), mean in np.ndenumerate(means):
        if np.isfinite(mean):
            color = "black" if mean > middle else "white"
            axes.text(column, row, _short(conclusion, float(mean)), ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows], fontsize=8)
    axes.set(xlabel=axis_name(options[1]), ylabel=axis_name(options[0]))
    chosen = conclusion.chosen.results[0].values
    corner = (columns.index(chosen[options[1]]) - 0.5, rows.index(chosen[options[0]]) - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=CLEAN, linewidth=2.5, clip_on=False))
    bar = figure.colorbar(image, label=conclusion.chosen.objective.name)
    _format_axis(bar.ax.yaxis, conclusion)
    return figure


def _draw_lambda_curve(axes: Axes, conclusion: Conclusion, option: str) -> None:
    arms, positions = conclusion.arms, arm_positions(conclusion, option)
    if (curve := conclusion.curve) is not None:
        logs = np.log10(curve.values)
        axes.fill_between(logs, curve.low, curve.high, color=VALIDATION, alpha=0.16, lw=0)
        axes.plot(logs, curve.mean, color=VALIDATION, lw=1.2, label="smooth curve, 95% band")
    for position, arm in zip(positions, arms, strict=True):
        axes.plot([position] * len(arm.results), arm.values, "o", color=VALIDATION, alpha=0.4, markersize=4)
    is_accuracy = conclusion.chosen.objective == ACCURACY
    if is_accuracy:
        clean = [arm.average("clean_accuracy") for arm in arms]
        axes.plot(positions, clean, "o:", color=CLEAN, markersize=4, label="training images, no augmentation")
    means, label = [arm.mean for arm in arms], "validation, mean and 95% interval"
    axes.errorbar(positions, means, error_bars(arms), color=VALIDATION, fmt="D", markersize=5, capsize=3, label=label)
    recommended = positions[arms.index(conclusion.chosen)]
    axes.axvline(recommended, color=RECOMMENDED, linestyle="--", label="recommended")
    axes.set_xlabel(axis_name(option))
    axes.set_ylabel("accuracy" if is_accuracy else conclusion.chosen.objective.name)
    _format_axis(axes.yaxis, conclusion)
    _label_arms(axes, conclusion, option)


def _label_arms(axes: Axes, conclusion: Conclusion, option: str) -> None:
    """Writes the values of λ at the axis, and the accuracies below the range of the axis at its lower edge."""
    bottom, top = value_range(conclusion)
    axes.set_ylim(bottom, top)
    below = below_range(conclusion)
    shown, named = labelled(conclusion, option), labelled(conclusion, option, among=below)
    ticks, labels = [], []
    for position, arm in zip(arm_positions(conclusion, option), conclusion.arms, strict=True):
        if arm in shown:
            ticks.append(position)
            labels.append(f"{arm.results[0].values[option]:g}")
        if arm in below:
            text = f"{arm.mean:.0%}\n↓" if arm in named else "↓"
            axes.text(position, bottom, text, ha="center", va="bottom", fontsize=8)
    axes.set_xticks(ticks, labels, fontsize=8)
    _mark_break(axes, conclusion, option)


def _mark_break(axes: Axes, conclusion: Conclusion, option: str) -> None:
    """Marks the axis between λ = 0, which a logarithmic axis does not have, and the smallest other value."""
    positions = sorted(arm_positions(conclusion, option))
    if len(positions) > 1 and any(arm.results[0].values[option] == 0 for arm in conclusion.arms):
        middle = (positions[0] + positions[1]) / 2
        style = {"boxstyle": "square,pad=0", "facecolor": "white", "edgecolor": "none"}
        axes.text(middle, 0, "//", transform=axes.get_xaxis_transform(), ha="center", va="center", bbox=style)


def _draw_forest_plot(axes: Axes, conclusion: Conclusion, names: list[str]) -> None:
    arms = conclusion.arms[::-1]
    for index, arm in enumerate(arms):
        axes.plot(arm.values, [index] * len(arm.results), "o", color=VALIDATION, alpha=0.4, markersize=4)
    means = [arm.mean for arm in arms]
    axes.errorbar(means, range(len(arms)), xerr=error_bars(arms), fmt="D", color=VALIDATION, capsize=3)
    if conclusion.baseline is not None:
        axes.axvline(conclusion.baseline.mean, color=NEUTRAL, linestyle="--")
    axes.set_yticks(range(len(arms)), names, fontsize=8)
    axes.set_ylim(-0.7, len(arms) - 0.3)
    axes.set_xlabel(f"{conclusion.chosen.objective.name}, mean and 95% interval over seeds")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    _format_axis(axes.xaxis, conclusion)


def _format_axis(axis: Axis, conclusion: Conclusion) -> None:
    if conclusion.chosen.objective.is_fraction:
        axis.set_major_formatter(PercentFormatter(1.0))


def _short(conclusion: Conclusion, value: float) -> str:
    return f"{value:.1%}" if conclusion.chosen.objective.is_fraction else f"{value:.3g}"
