"""Shared by the interactive figures and the one for papers: positions and labels on axes, ranges, error bars."""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regularization.models.objective import ACCURACY
from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.conclusion import Conclusion

# Minimum distance between labels on a logarithmic axis, as a fraction of its length.
MIN_DISTANCE = 0.1
# Options with their names and symbols in figures; others are named by their last word.
_NAMES = {
    "weight_decay": "weight decay λ",
    "timescale_epochs": "timescale τ in epochs",
    "lr": "learning rate η",
    "momentum": "momentum μ",
    "rho": "radius ρ",
    "alpha": "mixing parameter α",
    "drop_block": "DropBlock",
    "max_epochs": "epochs",
    "max_steps": "steps",
}
# Maximum number of characters per line in the name of an arm, and in that of an option.
ARM_LENGTH, OPTION_LENGTH = 24, 40


def value_range(conclusion: Conclusion) -> tuple[float, float]:
    """The range of the objective around the curve; arms far below the best are named at its lower edge."""
    objective = conclusion.chosen.objective
    best = max(arm.score for arm in conclusion.arms)
    near = [arm for arm in conclusion.arms if arm.score > best - objective.collapse]
    values = [value for arm in near for value in arm.values]
    clean = [arm.average("clean_accuracy") for arm in near] if objective == ACCURACY else []
    shown = [value for value in (*values, *clean) if math.isfinite(value)]
    margin = 0.15 * (max(shown) - min(shown)) or 0.01
    return max(objective.lowest, min(shown) - margin), min(objective.highest, max(shown) + margin)


def value_axis(conclusion: Conclusion) -> tuple[str, str]:
    """The name of the axis of the objective, and Plotly's format of its numbers."""
    objective = conclusion.chosen.objective
    return objective.name, ".1~%" if objective.is_fraction else ".3~f" if objective.is_known else ".4~g"


def axis_name(option: str) -> str:
    """The name of an option in words, with its symbol: ``weight decay λ`` for ``model.optimizer.weight_decay``."""
    parts = [part for part in option.split(".") if part != "init_args"]
    name = _NAMES.get(parts[-1], parts[-1].replace("_", " "))
    if parts[1:2] == ["penalties"] and len(parts) == 4:
        return f"{'strength λ' if name == 'strength' else name} of {parts[2]}"
    return f"{name} of {parts[2]}" if parts[1:2] == ["augmentations"] and len(parts) == 4 else name


def log_positions(values: Sequence[float]) -> list[float]:
    """log₁₀ of each value; 0 is placed to the left of the smallest positive value."""
    logs = [math.log10(value) for value in values if value > 0]
    gap = max(0.5, (max(logs) - min(logs)) / 6) if logs else 1.0
    return [math.log10(value) if value > 0 else (min(logs, default=0.0) - gap) for value in values]


def arm_positions(conclusion: Conclusion, option: str) -> list[float]:
    """Positions of the arms' values of ``option`` on the logarithmic axis."""
    return log_positions([arm.results[0].values[option] for arm in conclusion.arms])


def below_range(conclusion: Conclusion) -> list[ArmSummary]:
    """The arms whose mean is below the range of the objective's axis."""
    bottom, _ = value_range(conclusion)
    return [arm for arm in conclusion.arms if arm.mean < bottom]


def labelled(
    conclusion: Conclusion, option: str, min_distance: float = MIN_DISTANCE, among: Sequence[ArmSummary] | None = None
) -> list[ArmSummary]:
    """The arms for which there is space for a label: first the chosen one, then the others by ``option``.

    ``among`` lists the arms that have this kind of label; None for all arms.
    """
    candidates = conclusion.arms if among is None else among
    arms = sorted(candidates, key=lambda arm: arm is not conclusion.chosen)
    positions = dict(zip((arm.name for arm in conclusion.arms), arm_positions(conclusion, option), strict=True))
    distance = min_distance * (max(positions.values()) - min(positions.values()))
    kept: list[ArmSummary] = []
    for arm in arms:
        if all(abs(positions[arm.name] - positions[other.name]) >= distance for other in kept):
            kept.append(arm)
    return [arm for arm in conclusion.arms if arm in kept]


def fold(name: str, line_break: str, length: int = ARM_LENGTH) -> str:
    """Breaks a name into lines of at most ``length`` characters, after punctuation if possible."""
    return line_break.join(re.findall(rf".{{1,{length}}}$|.{{1,{length - 1}}}[_,+/ .]|.{{{length}}}", name))


def error_bars(arms: Sequence[ArmSummary]) -> NDArray[np.float64]:
    """Distances from the mean to the ends of its interval, ``(2, arms)``; 0, hence no bar, for an arm with one seed."""
    ends = np.array([(arm.mean - arm.low, arm.high - arm.mean) for arm in arms], dtype=np.float64)
    bars: NDArray[np.float64] = np.nan_to_num(ends).clip(0).T
    return bars
