"""The arms, trials and commands that the config of a study results in."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from regularization.cli.main import main
from regularization.errors import UserError
from regularization.study import config as study_config
from regularization.study.checks import check_options, check_study
from regularization.study.config import Study, build_arms, build_trials, find_baseline
from regularization.study.dry_run import DryRun
from regularization.training.configs import load_yaml
from tests.conftest import BASE, CONFIGS

LAMBDA = "model.optimizer.weight_decay"
PLACE = CONFIGS / "sweeps" / "x.yaml"


def test_an_axis_goes_from_small_to_large() -> None:
    arms = build_arms(Study(base="x", vary={LAMBDA: [0.01, 0, 1e-4]}), PLACE)
    assert [arm.name for arm in arms] == ["weight_decay=0", "weight_decay=0.0001", "weight_decay=0.01"]
    assert arms[1].args == (f"--{LAMBDA}=0.0001",)
    assert [arm.unregularized for arm in arms] == [True, False, False]


def test_two_axes_are_combined() -> None:
    study = Study(base="x", vary={"model.optimizer.lr": [0.1, 0.2], LAMBDA: [0, 1e-3]})
    arms = build_arms(study, PLACE)
    assert [arm.name for arm in arms] == [
        "lr=0.1,weight_decay=0",
        "lr=0.1,weight_decay=0.001",
        "lr=0.2,weight_decay=0",
        "lr=0.2,weight_decay=0.001",
    ]
    assert study.axis is None


def test_arms_are_configs_options_or_both() -> None:
    content: dict[str, Any] = {
        "none": {LAMBDA: 0},
        "l1": "configs/with/l1.yaml",
        "both": ["configs/with/l1.yaml", {LAMBDA: 0, "model.optimizer.nesterov": False}],
        "as_it_is": None,
    }
    arms = build_arms(Study(base="x", arms=content), PLACE)
    assert [arm.name for arm in arms] == list(content)
    l1 = str(CONFIGS / "with" / "l1.yaml")
    assert arms[1].args == ("--config", l1)
    assert arms[2].args == ("--config", l1, f"--{LAMBDA}=0", "--model.optimizer.nesterov=false")
    assert arms[3].args == ()
    assert find_baseline(Study(base="x", arms=content), arms) == arms[0]


def test_a_tuned_arm_has_a_value_for_each_try() -> None:
    study = Study(base="x", arms={"none": {LAMBDA: 0}, "wd": {LAMBDA: [0, 1e-3], "model.optimizer.lr": [0.1, 0.2]}})
    arms = build_arms(study, PLACE)
    assert [(arm.name, arm.group) for arm in arms] == [
        ("none", "none"),
        ("wd,weight_decay=0,lr=0.1", "wd"),
        ("wd,weight_decay=0,lr=0.2", "wd"),
        ("wd,weight_decay=0.001,lr=0.1", "wd"),
        ("wd,weight_decay=0.001,lr=0.2", "wd"),
    ]
    assert study.adaptive
    assert study.seed_list() == [1, 2, 3], "fresh ones: seed 0 was used for tuning"


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("callbacks.lawa.epochs", {"values": [2, 3]}, [2, 3]),
        ("model.optimizer.betas", {"values": [[0.9, 0.99], [0.8, 0.9]]}, [[0.9, 0.99], [0.8, 0.9]]),
        ("model.penalties.l1.strength", {"low": 1e-5, "high": 1e-2, "count": 4}, [1e-5, 1e-4, 1e-3, 1e-2]),
        ("model.optimizer.betas", [0.9, 0.99], []),
        ("model.network", {"class_path": "x"}, []),
    ],
)
def test_options_of_any_type_are_tuned(option: str, value: Any, choices: list[Any]) -> None:
    arms = build_arms(Study(base="x", arms={"x": {option: value}}), PLACE)
    assert [arm.values[option] for arm in arms] == (choices or [value])
    assert Study(base="x", arms={"x": {option: value}}).adaptive == bool(choices)


def test_trials_have_every_arm_and_seed_once_and_a_folder_each() -> None:
    study = Study(base="x", vary={LAMBDA: [0, 1]}, seeds=3)
    trials = build_trials(study, build_arms(study, PLACE), study.seed_list(), "final", ["--config", "x"], Path("s"))
    assert len({(trial.arm.name, trial.seed) for trial in trials}) == len({trial.folder for trial in trials}) == 6
    assert trials[0].args == ("--config", "x", f"--{LAMBDA}=0", "--seed_everything=0", "--data.split_seed=0")
    assert trials[0].folder == Path("s/final/weight_decay=0/seed_0")


@pytest.mark.parametrize(("seeds", "asked", "redrawn"), [(3, None, True), (2, None, False), (3, False, False)])
def test_the_split_is_redrawn_with_more_than_two_seeds(seeds: int, asked: bool | None, redrawn: bool) -> None:
    study = Study(base="x", vary={LAMBDA: [0]}, seeds=seeds, resample_split=asked)
    trials = build_trials(study, build_arms(study, PLACE), study.seed_list(), "final", [], Path())
    assert all(("--data.split_seed" in " ".join(trial.args)) == redrawn for trial in trials)


@given(some.floats(allow_nan=False, allow_infinity=False) | some.integers() | some.booleans() | some.none())
def test_values_are_typed_as_the_parser_reads_them(value: Any) -> None:
    (typed,) = study_config.to_cli_args({"x": value})
    read = load_yaml(typed.partition("=")[2])
    assert read == value
    assert type(read) is type(value) or isinstance(value, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": ""}, "a study needs a base"),
        ({"vary": {}}, "either vary or arms"),
        ({"arms": {"x": None}}, "either vary or arms"),
        ({"vary": {LAMBDA: []}}, "vary.model.optimizer.weight_decay: the list is empty"),
        ({"vary": {LAMBDA: ["strong"]}}, "'strong' is not a number"),
        ({"vary": {LAMBDA: [True]}}, "True is not a number"),
        ({"vary": {LAMBDA: [-1e-4]}}, "λ must not be negative, not -0.0001"),
        ({"vary": {LAMBDA: [1, 1]}}, "a value is listed twice"),
        ({"vary": {"a": [1], "b": [1], "c": [1]}}, "one option or two, not 3"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be"),
        ({"vary": {}, "arms": {"x": None}, "search": "halving"}, "search halving needs vary with one option"),
        ({"proposals": 0}, "must be at least 1"),
        ({"search": "halving", "seeds": [0, 1]}, "seeds: the search uses 0 to 0"),
        ({"resolution": 0}, "resolution must be above 0 percentage points, not 0"),
        ({"resolution": float("nan")}, "resolution must be above 0 percentage points, not nan"),
        ({"until": "decided", "seeds": [0, 1]}, "until: decided draws seeds as it needs them: give their number"),
        ({"until": "decided", "seeds": 0}, "until: decided needs seeds from 1 to max_seeds = 20, not 0"),
        ({"until": "decided", "seeds": 3, "max_seeds": 2}, "needs seeds from 1 to max_seeds = 2, not 3"),
        ({"until": "decided", "paired": False}, "until: decided compares within seeds: it needs paired: true"),
        ({"until": "decided", "refine": True, "vary": {"a": [0, 1], "b": [0, 1]}}, "refine needs vary with one option"),
        ({"refine": True}, "refine needs until: decided"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        check_study(Study(**{"base": "x", "vary": {LAMBDA: [0, 1]}} | changes))


@pytest.mark.parametrize(
    "changes",
    [{"until": "decided"}, {"until": "decided", "refine": True, "seeds": 2}, {"resolution": 2.5}, {"max_seeds": 1}],
)
def test_what_can_be(changes: dict[str, Any]) -> None:
    check_study(Study(**{"base": "x", "vary": {LAMBDA: [0, 1]}} | changes))


def test_until_decided_may_use_more_seeds_than_it_starts_with() -> None:
    study = Study(base="x", vary={LAMBDA: [0, 1]}, seeds=2, until="decided", max_seeds=5)
    assert study.first_seeds() == [0, 1]
    assert study.seed_list() == [0, 1, 2, 3, 4]
    assert study.resamples
    adaptive = Study(base="x", vary={LAMBDA: [0, 1]}, search="halving", seeds=2, until="decided", max_seeds=4)
    assert (adaptive.first_seeds(), adaptive.seed_list()) == ([1, 2], [1, 2, 3, 4])
    fixed = Study(base="x", vary={LAMBDA: [0, 1]}, seeds=[3, 7])
    assert fixed.first_seeds() == fixed.seed_list() == [3, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--until=decided", "--seeds=[0,1]"],
            "error: until: decided draws seeds as it needs them: give their number to",
        ),
        (["--until=decided", "--seeds=30"], "error: until: decided needs seeds from 1 to max_seeds = 20, not 30"),
        (["--refine=true"], "error: refine needs until: decided"),
        (
            ["--refine=true", "--until=decided", "--learning_rates=[0.1, 0.2]"],
            "error: refine needs vary with one option, search: grid, and no learning_rates",
        ),
        (["--resolution=-1"], "error: resolution must be above 0 percentage points, not -1"),
        (["--until=convinced"], "until"),
    ],
)
def test_the_command_refuses_what_cannot_be(
    options: list[str], message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(f"base: {CONFIGS / 'quickstart.yaml'}\nvary: {{{LAMBDA}: [0, 0.001]}}\n")
    assert message in refused("sweep", "--config", "study.yaml", *options)


def test_the_baseline_of_two_options_is_open_if_several_have_no_regularization() -> None:
    study = Study(base="x", vary={"model.optimizer.lr": [0.1, 0.2], LAMBDA: [0, 1e-3]})
    arms = build_arms(study, PLACE)
    assert find_baseline(study, arms) is None
    named = replace(study, baseline="lr=0.2,weight_decay=0")
    assert find_baseline(named, arms) == arms[2]
    both = Study(base="x", vary={"model.label_smoothing": [0, 0.1], LAMBDA: [0, 1e-3]})
    arms = build_arms(both, PLACE)
    assert find_baseline(both, arms) == arms[0]


def test_names_that_do_not_exist() -> None:
    study = Study(base="x", arms={"none": None}, baseline="nothing")
    with pytest.raises(UserError, match="there is no arm nothing, there are none"):
        find_baseline(study, build_arms(study, PLACE))
    with pytest.raises(UserError, match=r"there is no config absent\.yaml"):
        build_arms(Study(base="x", arms={"x": "absent.yaml"}), PLACE)
    with pytest.raises(UserError, match="must be made of letters"):
        build_arms(Study(base="x", arms={"a/b": None}), PLACE)
    with pytest.raises(UserError, match="must be a config, options"):
        build_arms(Study(base="x", arms={"x": 3}), PLACE)


ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.8, 0.9]}}
CLASSES = {
    "model.optimizer": ADAM,
    "model.penalties": {"l1": {"class_path": "regularization.L1", "init_args": {"strength": 0.25}}},
}


@pytest.mark.parametrize("where", ["options", "arms"])
def test_a_class_with_its_arguments_is_what_is_trained(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []

    class Recorded(DryRun):
        def __init__(self, args: Sequence[str]) -> None:
            super().__init__(args)
            planned.append(self)

    monkeypatch.setattr("regularization.study.plan.DryRun", Recorded)
    content: dict[str, Any] = {"base": str(BASE), "arms": {"none": None, "l1": [{"data.val_size": 0.5}]}}
    content |= {"options": CLASSES} if where == "options" else {}
    content["arms"]["l1"] += [CLASSES] if where == "arms" else []
    Path("study.yaml").write_text(yaml.safe_dump(content))
    main(["sweep", "--config", "study.yaml", "--dry-run"])
    config = planned[0].config
    optimizer = config.model.optimizer
    assert optimizer.class_path == "torch.optim.AdamW"
    assert (optimizer.init_args.lr, optimizer.init_args.betas) == (1e-3, (0.8, 0.9))
    assert config.model.penalties["l1"].init_args.strength == 0.25
    assert config.data.init_args.val_size == 0.5


def test_the_description_of_a_trial_with_a_class() -> None:
    arms = build_arms(Study(base="x", arms={"x": {"model.optimizer": {"class_path": "SGD"}}}), PLACE)
    assert arms[0].args == ('--model.optimizer={"class_path": "SGD"}',)
    (trial,) = build_trials(Study(), arms, [0], "final", [], Path("s"))
    trial.plan()
    assert json.loads((trial.folder / "trial.json").read_text())["values"]["model.optimizer"] == {"class_path": "SGD"}


def test_an_arm_that_is_there_twice(refused: Callable[..., str]) -> None:
    Path("study.yaml").write_text(f"base: {BASE}\narms:\n  none: {{{LAMBDA}: 0}}\n  none: {{{LAMBDA}: 1}}\n")
    assert "study.yaml has none twice, the second time in line 4" in refused("sweep", "--config", "study.yaml")


OPTIMIZER = {"model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}}


@pytest.mark.parametrize(
    ("changes", "args", "message"),
    [
        ({"vary": {"seed_everything": [0, 1]}}, [], "seed_everything: the study sets the seed of each trial"),
        ({}, ["--seed_everything", "3"], "seed_everything: the study sets the seed of each trial"),
        ({}, ["--seed_everything=3"], "seed_everything: the study sets the seed of each trial"),
        ({"options": {"seed_everything": 3}}, [], "seed_everything: the study sets the seed of each trial"),
        ({"arms": {"a": {"seed_everything": 1}, "b": None}}, [], "seed_everything: the study sets the seed of each"),
        ({}, ["--data.split_seed=1"], "data.split_seed: each seed draws its own validation images; resample_split"),
        ({"vary": {"data.init_args.split_seed": [1, 2]}}, [], "data.split_seed: each seed draws its own validation"),
        ({}, [f"--{LAMBDA}", "0.1"], f"--{LAMBDA} would be ignored, because the study varies it: remove it"),
        ({}, ["--model.optimizer.init_args.weight_decay=1"], "would be ignored, because the study varies it"),
        ({"options": {LAMBDA: 0.1}}, [], f"options: {LAMBDA} would be ignored, because the study varies it: remove it"),
        ({"arms": {"a": {LAMBDA: [0, 1]}, "b": {LAMBDA: 2}}}, [f"--{LAMBDA}=1"], "because every arm sets it: remove"),
        (
            {"arms": {"a": OPTIMIZER}},
            ["--model.optimizer.lr=1"],
            "--model.optimizer.lr would be ignored, because every",
        ),
        ({"learning_rates": [0.1, 0.2]}, ["--model.optimizer.lr=1"], "--model.optimizer.lr would be ignored"),
    ],
)
def test_an_option_that_trials_would_ignore_is_refused(
    changes: dict[str, Any], args: list[str], message: str, refused: Callable[..., str]
) -> None:
    content: dict[str, Any] = {"base": str(BASE), "vary": {} if "arms" in changes else {LAMBDA: [0, 1e-3]}}
    Path("study.yaml").write_text(yaml.safe_dump(content | changes))
    assert message in refused("sweep", "--config", "study.yaml", *args)


def test_options_that_only_some_arms_set_are_the_default_of_the_others() -> None:
    arms = {"none": {LAMBDA: 0}, "as_shared": None, "adam": OPTIMIZER}
    study = Study(base="x", arms=arms, options={LAMBDA: 1e-3}, seeds=2)
    check_options(study, build_arms(study, PLACE), ["--data.split_seed=3", "--model.optimizer.lr=1"])
    study.seeds = 3
    with pytest.raises(UserError, match=r"data\.split_seed"):
        check_options(study, build_arms(study, PLACE), ["--data.split_seed=3"])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (LAMBDA, {"low": 0, "high": 0.1, "count": 3}, "needs 0 < low < high, not 0 and 0.1"),
        (LAMBDA, {"low": "a", "high": 0.1, "count": 3}, "needs 0 < low < high, not a and 0.1"),
        (LAMBDA, {"low": 0.01, "high": 0.1, "count": 2.5}, "count must be an integer of at least 2, not 2.5"),
        (LAMBDA, {"low": 0.01, "high": 0.1, "count": 1}, "count must be an integer of at least 2, not 1"),
        (LAMBDA, {"low": 0.01, "high": 0.0101, "count": 4}, "a value is listed twice"),
        (LAMBDA, {"low": 0.01, "high": 0.1}, "a tuned option is {values: […]} or {low: …, high: …, count: …}"),
        (LAMBDA, {"values": 0.1}, "values must be a list of one value or more, not 0.1"),
        (LAMBDA, {"values": []}, "values must be a list of one value or more, not []"),
        (LAMBDA, {"values": [0.1, -0.1]}, "λ must not be negative"),
        (LAMBDA, [0.1, 0.1], "a value is listed twice"),
        ("model.weights", {"values": ["/a/b.ckpt", "c"]}, "give others an arm each"),
        ("model.lr_scheduler", {"values": [{"class_path": "x"}]}, "give others an arm each"),
    ],
)
def test_values_that_cannot_be_tuned(option: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_study(Study(base="x", arms={"none": {LAMBDA: 0}, "x": {option: value}}))
    assert str(error.value).startswith(f"arms.x.{option}: ")
    assert message in str(error.value)


def test_a_list_of_names_is_not_tuned() -> None:
    (arm,) = build_arms(Study(base="x", arms={"x": {"model.decay": ["*.weight", "!*norm*"]}}), PLACE)
    assert arm.args == ('--model.decay=["*.weight", "!*norm*"]',)


def test_a_baseline_with_learning_rates_counts_as_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"none": {LAMBDA: 0}, "weight_decay": {LAMBDA: [1e-3, 1e-2]}, "smoothing": {"model.label_smoothing": 0.1}}
    content = {"base": str(BASE), "arms": arms, "baseline": "none", "learning_rates": [0.01, 0.1]}
    Path("study.yaml").write_text(yaml.safe_dump(content))
    main(["sweep", "--config", "study.yaml", "--dry-run"])
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "same number of trials" in line]
    assert warning.endswith("trials: smoothing 2, weight_decay 4")
