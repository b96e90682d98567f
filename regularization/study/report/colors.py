"""The colors of the figures. Each has a contrast of at least 3 to 1 with the report's light and its dark background."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from plotly.colors import sample_colorscale

from regularization.study.analysis.arms import ArmSummary

VALIDATION, CLEAN, RECOMMENDED, NEUTRAL = "#2a78b5", "#d1603d", "#3a9a5b", "#7b828a"
BAND = "rgba(42, 120, 181, 0.25)"
# Colors of arms without an order.
ARMS = (
    "#2f7fc1",
    "#b3702a",
    "#3a9a5b",
    "#d4504a",
    "#8f6bc4",
    "#a0725f",
    "#c95fa6",
    "#7b828a",
    "#8a8a20",
    "#1c93a3",
)
# Color scale for the values of one option, from the smallest to the largest.
ORDERED = ("#2f7fc1", "#1f8f86", "#5f9433", "#a8811c", "#cf6a3a", "#c9547a", "#8f6bc4")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


def line_styles(arms: Sequence[ArmSummary]) -> list[dict[str, str]]:
    """A unique color and dash pattern per arm; values of one option, or very many arms, have ordered colors."""
    is_axis = len({option for arm in arms for option in arm.results[0].values}) == 1
    styles = [{"color": color, "dash": dash} for dash, color in product(DASHES, ARMS)]
    if is_axis or len(arms) > len(styles):
        ordered = sample_colorscale(list(ORDERED), np.linspace(0, 1, max(2, len(arms))))
        return [{"color": color, "dash": "solid"} for color in ordered[: len(arms)]]
    return styles[: len(arms)]
