"""Study, Arm and Trial: what a study compares. An arm is a way to regularize, a trial is an arm with a seed."""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from regularization.errors import UserError
from regularization.models.objective import DEFAULT
from regularization.runs import directory
from regularization.training.configs import find_config

Values = dict[str, Any]
# File in the folder of a study that describes what it compares.
STUDY = "study.yaml"
# Files in the folder of a trial: its description, a marker that the search pruned it, the reason why it failed.
TRIAL = "trial.json"
PRUNED = "stopped_early"
FAILED = "failed.txt"
# Options whose value 0 means no regularization.
STRENGTH = re.compile(r"(^|\.)(weight_decay|strength|dropout|drop_block|stochastic_depth|label_smoothing|cutout|rho)$")
LEARNING_RATE = "model.optimizer.lr"
# Other options that take one number: a list of values means that the option is tuned.
_TUNABLE = re.compile(r"(^|\.)(lr|alpha|decay|timescale_epochs)$")


@dataclass
class Study:
    """Trains every arm with every seed, and answers which regularization helps and how strong it should be.

    Give ``vary`` or ``arms``. Each option can be set in the study's config or on the command line. Options of ``fit``,
    such as ``--data.root``, apply to all arms.

    Args:
        base: The config, or configs, of ``fit`` that all arms share.
        options: Options of ``fit``, with their values, that apply to all arms.
        vary: One option with a list of values, or two options; all combinations of their values are tried.
        arms: For each name, a config, options with values, or a list of these. An option with a list of values is
            tuned: each value is tried with ``search_seeds`` seeds, and the arm's best value is compared. For options
            of any type, write ``{values: […]}``; ``{low: 1e-5, high: 1e-2, count: 4}`` is a logarithmic range.
        baseline: The arm that the others are compared with; by default the (best) one without regularization.
        seeds: The number of seeds per arm (with ``until: decided``, at the start), or a list of seeds.
        until: ``seeds`` gives every arm the same seeds. ``decided`` adds seeds to the arms that decide the study,
            until an arm helps, none helps by more than the resolution, or ``max_seeds`` are reached.
        max_seeds: The largest number of seeds per arm with ``until: decided``.
        refine: With ``until: decided`` and one option in ``vary``, also try a value between the two best ones.
        objective: The metric by which arms, and epochs, are compared; ``max:NAME`` or ``min:NAME`` for one of your own.
        resolution: The smallest difference that matters, in percentage points, or in units of 0.01.
        search: ``grid`` tries all values; ``halving`` stops worse arms early; ``tpe`` has Optuna propose values in the
            range of ``vary``. After these two, the finalists and the baseline are trained again with new seeds.
        search_seeds: The number of seeds per arm in the search.
        proposals: The number of arms that ``tpe`` proposes.
        learning_rates: Learning rates that every arm chooses from, with ``search_seeds`` seeds each, before the
            comparison: otherwise, λ may only seem to help because the learning rate was too small.
        finalists: The number of arms that are compared after an adaptive search.
        score: The epoch whose metrics count: ``last`` or ``best``.
        paired: Whether to compare arms within seeds. Switch it off if the arms are trained on different data.
        resample_split: Whether each seed also draws another validation set; by default with more than two seeds.
    """

    base: str | list[str] = ""
    # No type arguments: in a value of type Any, jsonargparse would turn a class into an object with all its defaults.
    options: dict = field(default_factory=dict)  # type: ignore[type-arg]
    vary: dict[str, list[Any]] = field(default_factory=dict)
    arms: dict = field(default_factory=dict)  # type: ignore[type-arg]
    baseline: str | None = None
    seeds: int | list[int] = 3
    until: Literal["seeds", "decided"] = "seeds"
    max_seeds: int = 20
    refine: bool = False
    objective: str = DEFAULT
    resolution: float = 0.5
    search: Literal["grid", "halving", "tpe"] = "grid"
    search_seeds: int = 1
    proposals: int = 20
    learning_rates: list[float] = field(default_factory=list)
    finalists: int = 2
    score: Literal["last", "best"] = "last"
    paired: bool = True
    resample_split: bool | None = None

    def seed_list(self) -> list[int]:
        """The seeds of the arms that are compared; after an adaptive search, seeds that the search has not used."""
        if isinstance(self.seeds, list):
            return self.seeds
        first = self.search_seeds if self.adaptive else 0
        return list(range(first, first + (self.max_seeds if self.until == "decided" else self.seeds)))

    def first_seeds(self) -> list[int]:
        """The seeds that every arm of the comparison is trained with."""
        return self.seed_list()[: self.seeds] if isinstance(self.seeds, int) else self.seeds

    @property
    def adaptive(self) -> bool:
        """Whether arms are chosen by their results before the comparison that counts."""
        if self.search != "grid" or self.learning_rates:
            return True
        return any(_has_tuned_option(arm) for arm in self.arms.values())

    @property
    def resamples(self) -> bool:
        """Whether each seed also draws another validation set."""
        return len(self.seed_list()) > 2 if self.resample_split is None else self.resample_split

    @property
    def axis(self) -> str | None:
        """The option that is varied; None if two options are varied, or if the study has arms."""
        return next(iter(self.vary)) if len(self.vary) == 1 and not self.arms else None


@dataclass(frozen=True)
class Arm:
    """One way to regularize.

    Attributes:
        name: Unique, and usable as the name of a folder.
        group: The name of the arm in the config; several arms share it if the arm is tuned.
        values: The options that it sets.
        args: Its configs and options as arguments of the command line.
    """

    name: str
    group: str
    values: Values
    args: tuple[str, ...]

    @property
    def unregularized(self) -> bool:
        """Whether every regularization that it sets is 0. False for an arm with a config, whose options are unknown."""
        return "--config" not in self.args and unregularized(self.values)


def unregularized(values: Values) -> bool:
    """Whether the options set a regularization, and all that they set are 0."""
    strengths = [value for option, value in values.items() if STRENGTH.search(option)]
    return bool(strengths) and not any(strengths)


@dataclass(frozen=True)
class Trial:
    """One training run of a study.

    Attributes:
        arm: The arm that is trained.
        seed: The seed of initialization, order and augmentation, and of the split if it is drawn again.
        stage: ``search``, ``final`` (compared), or ``refit``.
        args: The options of ``fit``.
        folder: Its run folder.
    """

    arm: Arm
    seed: int
    stage: str
    args: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """The name in tables and messages."""
        return f"{self.arm.name} seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether it is complete."""
        return "last" in directory.read_result(self.folder)

    def plan(self) -> None:
        """Creates its folder, with a file that describes the trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arm: dict[str, Any] = {"arm": self.arm.name, "group": self.arm.group, "values": self.arm.values}
        arm["unregularized"] = self.arm.unregularized
        text = json.dumps({**arm, "seed": self.seed, "stage": self.stage, "args": self.args}, indent=2)
        directory.write_text(self.folder / TRIAL, text + "\n")


def build_arms(study: Study, path: Path) -> list[Arm]:
    """The study's arms in order: by increasing values along the axes, or as they are written.

    Args:
        study: The study, after ``check_study``.
        path: Its config file; the configs that it names are also searched for in the folders that contain it.
    """
    if study.vary:
        options = list(study.vary)
        combinations = itertools.product(*(sorted(values) for values in study.vary.values()))
        arms = [arm_from_values(dict(zip(options, values, strict=True))) for values in combinations]
    else:
        arms = [arm for name, content in study.arms.items() for arm in _arms_from_config(name, content, path)]
    return [variant for arm in arms for variant in _with_learning_rates(arm, study.learning_rates)]


def _with_learning_rates(arm: Arm, rates: Sequence[float]) -> list[Arm]:
    """The arm with each learning rate; the arm itself if none is given."""
    variants = []
    for rate in rates:
        own = {LEARNING_RATE: rate}
        variants.append(Arm(f"{arm.name},lr={rate:g}", arm.group, arm.values | own, (*arm.args, *to_cli_args(own))))
    return variants or [arm]


def arm_from_values(values: Values) -> Arm:
    """The arm that sets these options to these values."""
    short_names = {option.rpartition(".")[2]: value for option, value in values.items()}
    labels = short_names if len(short_names) == len(values) else values
    name = ",".join(f"{label}={_text(value)}" for label, value in labels.items())
    return Arm(name, name, values, to_cli_args(values))


def _arms_from_config(name: str, content: Any, path: Path) -> list[Arm]:
    """The arm ``name`` of a study's config; if it is tuned, one arm for each combination of values."""
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise UserError(f"arms: the name {name!r} must be made of letters, digits and _ . + = -")
    configs: list[str] = []
    values: Values = {}
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            configs += ["--config", str(find_config(part, path))]
        elif isinstance(part, dict):
            values |= part
        elif part is not None:
            raise UserError(f"arms.{name}: must be a config, options and values, or a list of these, not {part!r}")
    tuned = {option: found for option, value in values.items() if (found := choices(option, value))}
    if not tuned:
        return [Arm(name, name, values, (*configs, *to_cli_args(values)))]
    arms = []
    for combination in itertools.product(*tuned.values()):
        chosen = dict(zip(tuned, combination, strict=True))
        options = {option: value for option, value in values.items() if option not in tuned} | chosen
        arms.append(Arm(f"{name},{arm_from_values(chosen).name}", name, options, (*configs, *to_cli_args(options))))
    return arms


def _has_tuned_option(content: Any) -> bool:
    parts = [part for part in (content if isinstance(content, list) else [content]) if isinstance(part, dict)]
    return any(choices(option, value) for part in parts for option, value in part.items())


def choices(option: str, value: Any) -> list[Any]:
    """The values of a tuned option: from ``{values: […]}``, a range, or a list if the option takes a number."""
    if isinstance(value, dict):
        if value.keys() == {"low", "high", "count"}:
            return [float(f"{number:.2g}") for number in np.geomspace(value["low"], value["high"], value["count"])]
        return list(value["values"]) if value.keys() == {"values"} else []
    # Some options take a list as their value: betas, and model.decay, which may be a list of names.
    is_tuned = isinstance(value, list) and (STRENGTH.search(option) or _TUNABLE.search(option))
    return value if is_tuned and all(isinstance(item, int | float) for item in value) else []


def to_cli_args(values: Values) -> tuple[str, ...]:
    """Options with their values as arguments of the command line."""
    return tuple(f"--{option}={_text(value)}" for option, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # JSON writes 0.00001 as 1e-05, which YAML 1.1 would read as text; the parser's loader does not.
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)


def build_trials(
    study: Study, arms: Sequence[Arm], seeds: Sequence[int], stage: str, common: Sequence[str], folder: Path
) -> list[Trial]:
    """Every arm with every seed. The seeds are in the outer loop, so that all arms have some results early.

    Args:
        study: The study.
        arms: All of its arms, or some of them.
        seeds: The seeds of each arm.
        stage: ``search`` or ``final``.
        common: The configs and options that all trials share.
        folder: The study's folder.
    """
    trials = []
    for seed, arm in itertools.product(seeds, arms):
        seed_args = [f"--seed_everything={seed}", *([f"--data.split_seed={seed}"] if study.resamples else [])]
        args = (*common, *arm.args, *seed_args)
        trials.append(Trial(arm, seed, stage, args, folder / stage / arm.name / f"seed_{seed}"))
    return trials


def find_baseline(study: Study, arms: Sequence[Arm]) -> Arm | None:
    """The arm to compare with: the one that the study names, else the only one without regularization, else None.

    Raises:
        UserError: When the arm that the study names does not exist.
    """
    if study.baseline is None:
        found = [arm for arm in arms if arm.unregularized]
        # Several combinations of two options may have none; which of them is the best is known when they are trained.
        return found[0] if found and (len(study.vary) < 2 or len({arm.group for arm in found}) == 1) else None
    for arm in arms:
        if study.baseline in (arm.name, arm.group):
            return arm
    raise UserError(f"baseline: there is no arm {study.baseline}, there are {', '.join(arm.name for arm in arms)}")
