"""Config files: found, read and merged before they are parsed."""

import copy
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from regularization.cli.main import main
from regularization.errors import UserError
from regularization.training.configs import (
    find_config,
    load_yaml,
    merge_configs,
    read_config,
    short_name,
    split_args,
    to_text,
)
from tests.conftest import CONFIGS

Printed = Callable[..., dict[str, Any]]

SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "weight_decay": 5e-4}}


MIXUP = {"class_path": "torchvision.transforms.v2.MixUp", "init_args": {"alpha": 0.2}}
CUTMIX = {"class_path": "torchvision.transforms.v2.CutMix", "init_args": {"alpha": 1.0}}


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Printed:
    """The config that ``fit`` would train with."""

    def run(*args: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *args, "--print_config"])
        assert exit_.value.code == 0
        config: dict[str, Any] = load_yaml(capsys.readouterr().out)
        return config

    return run


def test_configs_and_options_are_split() -> None:
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        Path(name).touch()
    args = ["--config", "a.yaml", "--x", "1", "--config=b.yaml", "-c", "c.yaml", "--y=2"]
    assert split_args(args) == ([Path("a.yaml"), Path("b.yaml"), Path("c.yaml")], ["--x", "1", "--y=2"])
    with pytest.raises(UserError, match="--config needs a file"):
        split_args(["--x", "1", "--config"])


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        # Arguments of the same class are merged, however the class is written.
        (SGD, {"init_args": {"lr": 1}}, SGD | {"init_args": {"lr": 1, "weight_decay": 5e-4}}),
        (SGD, {"lr": 1}, SGD | {"init_args": {"lr": 1, "weight_decay": 5e-4}}),
        (SGD, {"class_path": "SGD"}, SGD | {"class_path": "SGD"}),
        (SGD, "torch.optim.SGD", SGD),
        ("torch.optim.SGD", {"init_args": {"lr": 1}}, {"class_path": "torch.optim.SGD", "init_args": {"lr": 1}}),
        (
            {"class_path": "regularization.optim.penalties.L1", "init_args": {"strength": 1}},
            {"class_path": "regularization.L1", "init_args": {"proximal": False}},
            {"class_path": "regularization.L1", "init_args": {"strength": 1, "proximal": False}},
        ),
        # Another class starts without the arguments of the former one.
        (SGD, {"class_path": "torch.optim.AdamW"}, {"class_path": "torch.optim.AdamW"}),
        (SGD, {"class_path": "timm.optim.SGD"}, {"class_path": "timm.optim.SGD"}),
        (SGD, "AdamW", {"class_path": "AdamW"}),
        # null replaces a value and can be replaced by one.
        (SGD, None, None),
        (None, SGD, SGD),
        ({"l1": SGD, "l2": SGD}, {"l1": None}, {"l1": None, "l2": SGD}),
        ([1, 2], [3], [3]),
    ],
)
def test_two_values_of_an_option(old: Any, new: Any, merged: Any) -> None:
    configs = [{"x": old}, {"x": new}]
    before = copy.deepcopy(configs)
    assert merge_configs(configs) == {"x": merged}
    assert configs == before


TREES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text("ab 1:-", max_size=4),
    lambda inner: some.dictionaries(some.sampled_from("abcd"), inner, max_size=3) | some.lists(inner, max_size=2),
    max_leaves=8,
)
CONFIG = some.dictionaries(some.sampled_from("abcd"), TREES, max_size=4)


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {key: value for name, inner in tree.items() for key, value in leaves(inner, (*path, name)).items()}


@given(first=CONFIG, second=CONFIG)
def test_the_later_config_wins_and_nothing_else_is_lost(first: dict[str, Any], second: dict[str, Any]) -> None:
    merged = merge_configs([first, second])
    for path, value in leaves(second).items():
        node: Any = merged
        for name in path:
            node = node[name]
        if value != {}:
            assert node == value
    assert merge_configs([first, first]) == first
    assert merge_configs([{}, first]) == merge_configs([first, {}]) == first
    set_by_second = leaves(second)
    for path, value in leaves(first).items():
        if not any(path[: len(other)] == other or other[: len(path)] == path for other in set_by_second):
            node = merged
            for name in path:
                node = node[name]
            assert node == value


@given(config=CONFIG)
def test_a_config_as_text_is_the_same_config(config: dict[str, Any]) -> None:
    text = to_text(config)
    assert "\n" not in text
    assert yaml.safe_load(text) == config


def test_numbers_survive_as_text() -> None:
    config = {"a": 1e-5, "b": float("inf"), "c": float("-inf"), "d": "1.0", "e": None, "f": "null", "g": True}
    assert load_yaml(to_text(config)) == config


def test_options_between_configs_win_over_all_configs(printed: Printed) -> None:
    args = ["--config", "quickstart", "--config", "with/l1", "--model.penalties.l1.strength", "1e-3"]
    config = printed(*args, "--config", "with/dropout")
    assert config["model"]["penalties"]["l1"]["init_args"]["strength"] == 1e-3
    assert config["model"]["network"]["init_args"]["dropout"] > 0
    assert config == printed(*args[:4], "--config", "with/dropout", *args[4:])


def test_a_config_from_a_pipe(printed: Printed) -> None:
    os.mkfifo("pipe")
    content = (CONFIGS / "quickstart.yaml").read_text()
    writer = threading.Thread(target=lambda: Path("pipe").write_text(content))
    writer.start()
    config = printed("--config", "pipe", "--config", "with/l1")
    writer.join()
    assert config == printed("--config", "quickstart", "--config", "with/l1")


def test_overlays_combine_and_null_removes(printed: Printed) -> None:
    Path("off.yaml").write_text("model: {penalties: {l1: null}}\ncallbacks: {ema: null}\n")
    overlays = [word for name in ("with/l1", "with/orthogonal", "with/ema") for word in ("--config", name)]
    config = printed("--config", "quickstart", *overlays)
    assert set(config["model"]["penalties"]) == {"l1", "orthogonal"}
    config = printed("--config", "quickstart", *overlays, "--config", "off.yaml")
    assert config["model"]["penalties"]["l1"] is None
    assert config["callbacks"] == {"ema": None}


def test_another_class_drops_the_arguments_of_the_former(printed: Printed) -> None:
    Path("adam.yaml").write_text("model: {optimizer: torch.optim.AdamW}\n")
    optimizer = printed("--config", "quickstart", "--config", "adam.yaml")["model"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    assert (optimizer["init_args"]["lr"], optimizer["init_args"]["weight_decay"]) == (0.001, 0.01)


def test_a_file_that_is_no_config() -> None:
    Path("list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"list\.yaml has no options in it"):
        read_config(Path("list.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "merged"),
    [
        ({"mixup": MIXUP}, {"cutmix": CUTMIX}, {"mixup": MIXUP, "cutmix": CUTMIX}),
        # A single class, as in the configs and checkpoints of earlier versions, is merged with named ones.
        (MIXUP, {"cutmix": CUTMIX}, {"mixup": MIXUP, "cutmix": CUTMIX}),
        (MIXUP, {"mixup": {**MIXUP, "init_args": {"alpha": 0.4}}}, {"mixup": {**MIXUP, "init_args": {"alpha": 0.4}}}),
        (MIXUP["class_path"], {"cutmix": CUTMIX}, {"mixup": {"class_path": MIXUP["class_path"]}, "cutmix": CUTMIX}),
        # A class without a name replaces the previous ones; arguments without a class change it.
        ({"mixup": MIXUP}, CUTMIX, CUTMIX),
        (MIXUP, CUTMIX, CUTMIX),
        (MIXUP, {"alpha": 0.4}, {**MIXUP, "init_args": {"alpha": 0.4}}),
        ({"mixup": MIXUP}, None, None),
        (None, {"cutmix": CUTMIX}, {"cutmix": CUTMIX}),
    ],
)
def test_mixing_is_combined_by_name(old: Any, new: Any, merged: Any) -> None:
    assert merge_configs([{"model": {"mixing": old}}, {"model": {"mixing": new}}]) == {"model": {"mixing": merged}}


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("base: x\narms:\n  none: {a: 1}\n  l1: {a: 2}\n  none: {a: 3}\n", "none", 5),
        ("trainer: {max_epochs: 1}\nmodel:\n  x: [{a: {b: 1, 'b': 2}}]\n", "b", 3),
        ("trainer: {}\ntrainer: {}\n", "trainer", 2),
    ],
)
def test_a_key_that_is_there_twice(text: str, key: str, line: int) -> None:
    Path("x.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"^x\.yaml has {key} twice, the second time in line {line}$"):
        read_config(Path("x.yaml"))


def test_equal_keys_in_different_places_are_no_duplicates() -> None:
    Path("x.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, {x: 1}, '1', 1]\n1: 2\n'1': 3\n")
    assert read_config(Path("x.yaml"))["b"] == {"x": 3, "y": 2}


def test_a_short_name_is_found_again() -> None:
    for name in ("quickstart", "with/l1"):
        assert short_name(find_config(name)) == name
    own = Path("study/mine.yaml").absolute()
    own.parent.mkdir()
    own.touch()
    assert short_name(own) == "study/mine.yaml"
    assert find_config("study/mine.yaml").absolute() == own
    assert short_name(Path("/elsewhere/mine.yaml")) == "/elsewhere/mine.yaml"
