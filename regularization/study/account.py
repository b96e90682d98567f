"""The record of a study's looks in its folder: the part of the error rate that a look spent stays spent."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from regularization.runs import directory
from regularization.study.analysis.comparison import ALPHA
from regularization.study.analysis.looks import SCHEDULE, Look, fixed_alpha, last_alpha, next_look, scheduled_alpha
from regularization.study.config import Study
from regularization.study.results import Result

LOOKS = "looks.json"


def planned_looks(study: Study) -> dict[int, float]:
    """The α of each look, by the number of seeds of the baseline, or by the number of extensions so far."""
    return dict(SCHEDULE) if study.until == "decided" else {count: fixed_alpha(count) for count in range(4)}


def first_alpha(study: Study) -> float:
    """The α before the first look: that of the first look, or the whole error rate for runs outside of a study."""
    if not study.base:
        return ALPHA
    return scheduled_alpha(next_look(0)) if study.until == "decided" else fixed_alpha(0)


def later_alpha(study: Study, looks: Sequence[Look]) -> Callable[[int], float]:
    """Returns the function from a number of seeds per arm to the α of the look at which they would be judged."""
    if not study.base:
        return lambda seeds: ALPHA
    return last_alpha if study.until == "decided" else lambda seeds: fixed_alpha(len(looks))


def read_looks(folder: Path) -> list[Look]:
    """The looks so far, oldest first."""
    path = folder / LOOKS
    return [Look(**look) for look in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def add_look(folder: Path, study: Study, baseline: str | None, results: Sequence[Result]) -> list[Look]:
    """Records a look at the results; it spends no α if they are those of the last look.

    With ``until: decided``, the looks are scheduled, and only a look that is due spends α. A fixed design has one look,
    and another one after each extension.

    Args:
        folder: The study's folder; the caller holds its lock.
        study: The study.
        baseline: Name of the baseline; its number of seeds determines whether a scheduled look is due.
        results: The results of the arms that are compared.

    Returns:
        The looks, this one included.
    """
    looks = read_looks(folder)
    seeds = sum(result.arm == baseline for result in results)
    if study.until == "decided":
        alpha = scheduled_alpha(seeds) if not any(look.seeds == seeds for look in looks) else 0.0
    else:
        seen = bool(looks) and looks[-1].trials == len(results) and looks[-1].digest in ("", _digest(results))
        alpha = 0.0 if seen else fixed_alpha(len(looks))
    if alpha:
        looks.append(Look(seeds, len(results), alpha, _digest(results)))
        text = json.dumps([dataclasses.asdict(look) for look in looks], indent=2)
        directory.write_text(folder / LOOKS, text + "\n")
    return looks


def _digest(results: Sequence[Result]) -> str:
    trials = sorted((result.arm, result.seed) for result in results)
    return hashlib.sha256(json.dumps(trials).encode()).hexdigest()[:16]
