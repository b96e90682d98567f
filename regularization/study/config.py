"""The space of a study: its arms, each a way to regularize, and its trials, each an arm with a seed."""

import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from regularization.errors import UserError
from regularization.runs import directory
from regularization.training.parser import find_config

Values = dict[str, Any]
# Files in a trial's folder: what it is, that a search stopped it early, why it failed.
TRIAL = "trial.json"
PRUNED = "stopped_early"
FAILED = "failed.txt"
# Options of which 0 means no regularization at all.
_STRENGTH = re.compile(r"(^|\.)(weight_decay|strength|dropout|stochastic_depth|label_smoothing|cutout)$")
# Others that take one number, so that a list of them is one to choose from.
_TUNABLE = re.compile(r"(^|\.)(lr|alpha|decay|timescale_epochs)$")


@dataclass
class Study:
    """Trains every arm with every seed, and answers which regularization helps and how strong it should be.

    Give ``vary`` or ``arms``; every option may be written in a config or on the command line. Options of ``fit``
    (``--data.root``, ``--trainer.max_epochs`` …) hold for all arms.

    Args:
        base: The config, or configs, of ``fit`` that all arms share.
        options: Options of ``fit`` that hold for all arms, with their values.
        vary: One option and its list of values, or two, of which all combinations are tried.
        arms: By name: a config, options with their values, or a list of these. An option with a list of values is
            tuned: each value is tried with ``search_seeds``, and the arm's best one goes on.
        baseline: The arm that the others are compared with; by default the one without regularization.
        seeds: How many seeds each arm is trained with, or which.
        search: ``grid`` tries everything; ``halving`` stops the worse part of the arms early; ``tpe`` has Optuna
            propose ``proposals`` values between the smallest and the largest that ``vary`` lists. After an adaptive
            search the finalists and the baseline are trained again with fresh seeds.
        search_seeds: Seeds of each arm while searching.
        proposals: Arms that ``tpe`` proposes.
        finalists: Arms that an adaptive search lets into the final.
        score: The epoch whose validation accuracy counts: the ``last``, or the ``best``.
        choose: On one axis: the ``middle`` of the values that can't be told from the best, the ``best``, or the
            ``strongest`` of them.
        paired: Compares arms seed by seed, for when the same seed makes arms alike.
        resample_split: Whether seeds also redraw which images are held out; by default with more than two seeds.
    """

    base: str | list[str] = ""
    options: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, list[Any]] = field(default_factory=dict)
    arms: dict[str, Any] = field(default_factory=dict)
    baseline: str | None = None
    seeds: int | list[int] = 3
    search: Literal["grid", "halving", "tpe"] = "grid"
    search_seeds: int = 1
    proposals: int = 20
    finalists: int = 2
    score: Literal["last", "best"] = "last"
    choose: Literal["middle", "best", "strongest"] = "middle"
    paired: bool = False
    resample_split: bool | None = None

    def seed_list(self) -> list[int]:
        """The seeds of the arms that are compared; fresh ones after an adaptive search."""
        if isinstance(self.seeds, list):
            return self.seeds
        first = self.search_seeds if self.adaptive else 0
        return list(range(first, first + self.seeds))

    @property
    def adaptive(self) -> bool:
        """Whether arms are chosen by their results before the comparison that counts."""
        return self.search != "grid" or any(_tuned(arm) for arm in self.arms.values())

    @property
    def resamples(self) -> bool:
        """Whether seeds redraw the split too."""
        return len(self.seed_list()) > 2 if self.resample_split is None else self.resample_split

    @property
    def axis(self) -> str | None:
        """The option that is varied, when it is one and its values are numbers in an order."""
        return next(iter(self.vary)) if len(self.vary) == 1 and not self.arms else None


@dataclass(frozen=True)
class Arm:
    """One way to regularize.

    Attributes:
        name: Unique, and good as a folder's name.
        group: The arm of the config that it is a tuned value of; its own name where nothing was tuned.
        values: The options it sets.
        args: Those options, and configs, as one would type them.
    """

    name: str
    group: str
    values: Values
    args: tuple[str, ...]

    @property
    def unregularized(self) -> bool:
        """Whether every regularization that it sets is 0; what its configs set is not known here."""
        return "--config" not in self.args and unregularized(self.values)


def unregularized(values: Values) -> bool:
    """Whether the options name a regularization, and every one that they name is 0."""
    strengths = [value for option, value in values.items() if _STRENGTH.search(option)]
    return bool(strengths) and not any(strengths)


@dataclass(frozen=True)
class Trial:
    """One training run of a study.

    Attributes:
        arm: What is trained.
        seed: Of initialization and order, and of the split where it is redrawn.
        stage: ``search``, or ``final`` for those that are compared.
        args: The whole command, ``fit`` and its options.
        folder: Its run folder.
    """

    arm: Arm
    seed: int
    stage: str
    args: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.arm.name} seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether it ran to its end."""
        return (self.folder / directory.RESULT).is_file()

    def plan(self) -> None:
        """Makes its folder, which says from then on what it is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {"arm": self.arm.name, "group": self.arm.group, "values": self.arm.values}
        about |= {"unregularized": self.arm.unregularized}
        text = json.dumps({**about, "seed": self.seed, "stage": self.stage, "args": self.args}, indent=2)
        directory.write_text(self.folder / TRIAL, text + "\n")


def check_study(study: Study) -> None:
    """Checks what can be said of a study before any of its configs is parsed.

    Raises:
        UserError: Naming the option that can't be.
    """
    if not study.base:
        raise UserError("a study needs a base: the config of fit that its arms share")
    if bool(study.vary) == bool(study.arms):
        raise UserError("a study needs either vary or arms")
    if len(study.vary) > 2:
        raise UserError(f"vary takes one option or two, not {len(study.vary)}: {', '.join(study.vary)}")
    for option, values in study.vary.items():
        _check_values(option, values)
    seeds = study.seed_list()
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"seeds must be a number of at least 1, or a list of different ones, not {study.seeds}")
    if study.adaptive and isinstance(study.seeds, list) and min(seeds) < study.search_seeds:
        raise UserError(f"seeds: the search uses 0 to {study.search_seeds - 1}; list others, to judge on fresh ones")
    if study.search != "grid" and not study.axis:
        raise UserError(f"search {study.search} needs vary with one option")
    if min(study.search_seeds, study.finalists, study.proposals) < 1:
        raise UserError("search_seeds, finalists and proposals must be at least 1")


def _check_values(option: str, values: list[Any]) -> None:
    if not values:
        raise UserError(f"vary.{option}: the list is empty")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"vary.{option}: {value!r} is no number; what is not a number belongs into arms")
        if value < 0 and _STRENGTH.search(option):
            raise UserError(f"vary.{option}: λ must not be negative, not {value:g}")
    if len(set(values)) < len(values):
        raise UserError(f"vary.{option}: a value is listed twice")


def build_arms(study: Study, place: Path) -> list[Arm]:
    """The study's arms in their order: along the axis from small to large, or as they are written.

    Args:
        study: The study, checked.
        place: Its config file; configs are also looked for in the folders that this one lies in.
    """
    if study.vary:
        options = list(study.vary)
        return [
            arm_from_values(dict(zip(options, values, strict=True)))
            for values in itertools.product(*(sorted(values) for values in study.vary.values()))
        ]
    return [arm for name, content in study.arms.items() for arm in _written(name, content, place)]


def arm_from_values(values: Values) -> Arm:
    """The arm that these options with their values make."""
    short = {option.rpartition(".")[2]: value for option, value in values.items()}
    named = short if len(short) == len(values) else values
    name = ",".join(f"{option}={_text(value)}" for option, value in named.items())
    return Arm(name, name, values, to_cli_args(values))


def _written(name: str, content: Any, place: Path) -> list[Arm]:
    """The arm ``name`` of a config; several where it is tuned."""
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise UserError(f"arms: the name {name!r} must be made of letters, digits and _ . + = -")
    configs: list[str] = []
    values: Values = {}
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            configs += ["--config", str(find_config(part, place))]
        elif isinstance(part, dict):
            values |= part
        elif part is not None:
            raise UserError(
                f"arms.{name}: must be a config, options with their values, or a list of these, not {part!r}"
            )
    fixed = {option: value for option, value in values.items() if not _is_tuned(option, value)}
    tuned = {option: value for option, value in values.items() if _is_tuned(option, value)}
    if not tuned:
        return [Arm(name, name, values, (*configs, *to_cli_args(values)))]
    arms = []
    for chosen in itertools.product(*tuned.values()):
        values = dict(zip(tuned, chosen, strict=True))
        arm_name, values = f"{name},{arm_from_values(values).name}", fixed | values
        arms.append(Arm(arm_name, name, values, (*configs, *to_cli_args(values))))
    return arms


def _tuned(content: Any) -> bool:
    parts = content if isinstance(content, list) else [content]
    return any(_is_tuned(option, value) for part in parts if isinstance(part, dict) for option, value in part.items())


def _is_tuned(option: str, value: Any) -> bool:
    """A list of numbers for an option that takes one; betas, for instance, is a list by itself."""
    return isinstance(value, list) and bool(_STRENGTH.search(option) or _TUNABLE.search(option))


def to_cli_args(values: Values) -> tuple[str, ...]:
    """Options and their values, as one would type them."""
    return tuple(f"--{option}={_text(value)}" for option, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # JSON writes 0.00001 as 1e-05, which YAML 1.1 would read as text; the parser's loader does not.
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)


def build_trials(
    study: Study, arms: Sequence[Arm], seeds: Sequence[int], stage: str, common: Sequence[str], folder: Path
) -> list[Trial]:
    """Every arm with every seed; the seeds in the outer loop, so that all arms have some results early.

    Args:
        study: The study.
        arms: Its arms, or some of them.
        seeds: Their seeds.
        stage: ``search`` or ``final``.
        common: The configs and options that all of them share.
        folder: The study's folder.
    """
    trials = []
    for seed, arm in itertools.product(seeds, arms):
        drawn = [f"--seed_everything={seed}", *([f"--data.split_seed={seed}"] if study.resamples else [])]
        args = ("fit", *common, *arm.args, *drawn)
        trials.append(Trial(arm, seed, stage, args, folder / stage / arm.name / f"seed_{seed}"))
    return trials


def find_baseline(study: Study, arms: Sequence[Arm]) -> Arm | None:
    """The arm to compare with: the one that was named, else the one without regularization, else None.

    Raises:
        UserError: When the one that was named does not exist.
    """
    if study.baseline is None:
        return next((arm for arm in arms if arm.unregularized), None)
    for arm in arms:
        if study.baseline in (arm.name, arm.group):
            return arm
    raise UserError(f"baseline: there is no arm {study.baseline}, there are {', '.join(arm.name for arm in arms)}")
