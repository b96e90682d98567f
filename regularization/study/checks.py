"""Checks of a study's options, before any of its configs is parsed."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from regularization.errors import UserError
from regularization.models.objective import Objective
from regularization.study.config import LEARNING_RATE, STRENGTH, Arm, Study, Values, choices

# The options of fit that a study sets in each trial.
_SEED, _SPLIT_SEED = "seed_everything", "data.split_seed"


def check_study(study: Study) -> None:
    """Checks a study before any of its configs is parsed.

    Raises:
        UserError: When an option has an impossible value.
    """
    Objective.parse(study.objective)
    if not study.base:
        raise UserError("a study needs a base: the config of fit that its arms share")
    if bool(study.vary) == bool(study.arms):
        raise UserError("a study needs either vary or arms")
    if len(study.vary) > 2:
        raise UserError(f"vary takes one option or two, not {len(study.vary)}: {', '.join(study.vary)}")
    for option, values in study.vary.items():
        _check_values(f"vary.{option}", option, values)
    _check_arms(study)
    seeds = study.seed_list()
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"seeds must be a number of at least 1, or a list of different ones, not {study.seeds}")
    if study.adaptive and isinstance(study.seeds, list) and min(seeds) < study.search_seeds:
        raise UserError(f"seeds: the search uses 0 to {study.search_seeds - 1}; list others, to judge on fresh ones")
    _check_until(study)
    if study.learning_rates:
        _check_values("learning_rates", LEARNING_RATE, study.learning_rates)
        if study.search != "grid" or LEARNING_RATE in study.vary:
            raise UserError("learning_rates needs search: grid, and other options in vary")
    if study.search != "grid" and not study.axis:
        raise UserError(f"search {study.search} needs vary with one option")
    if min(study.search_seeds, study.finalists, study.proposals) < 1:
        raise UserError("search_seeds, finalists and proposals must be at least 1")


def check_options(study: Study, arms: Sequence[Arm], common: Sequence[str]) -> None:
    """Checks that no option is given that trials would ignore.

    Args:
        study: The study.
        arms: Its arms.
        common: The options of ``fit`` on the command line, which all trials share.

    Raises:
        UserError: For an option that the study sets in each trial, or that every arm sets.
    """
    words = [word.partition("=")[0] for word in common if word.startswith("--")]
    shared = {_plain(word.removeprefix("--")): word for word in words}
    shared |= {_plain(option): f"options: {option}" for option in study.options}
    by_arms = [set(_leaves(arm.values)) for arm in arms]
    given = set().union(shared, *by_arms)
    if _SEED in given:
        raise UserError(f"{_SEED}: the study sets the seed of each trial; list its seeds in seeds")
    if _SPLIT_SEED in given and study.resamples:
        raise UserError(f"{_SPLIT_SEED}: each seed draws its own validation images; resample_split: false keeps them")
    if ignored := [name for option, name in shared.items() if all(option in options for options in by_arms)]:
        what = "the study varies it" if study.vary else "every arm sets it"
        raise UserError(f"{ignored[0]} would be ignored, because {what}: remove it")


def _leaves(values: Values) -> Iterable[str]:
    """The names of all options that are set, also inside of classes; without ``init_args``."""
    for option, value in values.items():
        yield _plain(option)
        if isinstance(value, dict):
            yield from (_plain(f"{option}.{inner}") for inner in _leaves(value))


def _plain(option: str) -> str:
    return option.replace(".init_args", "")


def _check_until(study: Study) -> None:
    if not study.resolution > 0:
        raise UserError(f"resolution must be above 0 percentage points, not {study.resolution:g}")
    if study.until == "decided":
        if isinstance(study.seeds, list):
            raise UserError("until: decided draws seeds as it needs them: give their number to start with, not a list")
        if not 1 <= study.seeds <= study.max_seeds:
            raise UserError(f"until: decided needs seeds from 1 to max_seeds = {study.max_seeds}, not {study.seeds}")
        if not study.paired:
            raise UserError("until: decided compares within seeds: it needs paired: true")
        if study.refine and (not study.axis or study.adaptive):
            raise UserError("refine needs vary with one option, search: grid, and no learning_rates")
    elif study.refine:
        raise UserError("refine needs until: decided")


def _check_arms(study: Study) -> None:
    for name, content in study.arms.items():
        for part in content if isinstance(content, list) else [content]:
            for option, value in part.items() if isinstance(part, dict) else ():
                _check_tuned(f"arms.{name}.{option}", option, value)


def _check_tuned(name: str, option: str, value: Any) -> None:
    """Checks the values that an option of an arm is tuned over."""
    if not isinstance(value, dict):
        if values := choices(option, value):
            _check_values(name, option, values)
    elif value.keys() == {"low", "high", "count"}:
        _check_range(name, **value)
        _check_values(name, option, choices(option, value))
    elif value.keys() == {"values"}:
        values = value["values"]
        if not isinstance(values, list) or not values:
            raise UserError(f"{name}: values must be a list of one value or more, not {values!r}")
        if all(isinstance(item, int | float) and not isinstance(item, bool) for item in values):
            _check_values(name, option, values)
        elif not all(re.fullmatch(r"[\w.+=, \[\]-]{1,60}", str(item)) for item in values):
            raise UserError(f"{name}: values must be numbers, words or short lists of these; give others an arm each")
    elif value.keys() & {"values", "low", "high", "count"} and "class_path" not in value:
        raise UserError(f"{name}: a tuned option is {{values: […]}} or {{low: …, high: …, count: …}}")


def _check_range(name: str, low: Any, high: Any, count: Any) -> None:
    numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
    if not numbers or not 0 < low < high:
        raise UserError(f"{name}: a range on a logarithmic scale needs 0 < low < high, not {low} and {high}")
    if not isinstance(count, int) or count < 2:
        raise UserError(f"{name}: count must be an integer of at least 2, not {count}")


def _check_values(name: str, option: str, values: list[Any]) -> None:
    if not values:
        raise UserError(f"{name}: the list is empty")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name}: {value!r} is not a number; use arms for other values")
        if value < 0 and STRENGTH.search(option):
            raise UserError(f"{name}: λ must not be negative, not {value:g}")
    if len(set(values)) < len(values):
        raise UserError(f"{name}: a value is listed twice")
