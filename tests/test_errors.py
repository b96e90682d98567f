from pathlib import Path

import pytest

from regularization.errors import did_you_mean, translate_error
from regularization.training.parser import config_paths


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weight_decya", " (did you mean weight_decay?)"),
        ("optimizer.lrr", " (did you mean optimizer.lr?)"),
        ("modle.anything.else", " (did you mean model?)"),
        ("zzz", ""),
    ],
)
def test_nearest(name: str, said: str) -> None:
    assert did_you_mean(name, ["weight_decay", "optimizer.lr", "model", "model"]) == said


def test_a_name_in_the_wrong_place() -> None:
    names = ["seed_everything", "model", "data.seed", "seed"]
    assert did_you_mean("seed", names) == " (did you mean data.seed or seed_everything?)"
    assert did_you_mean("model", names) == ""


def test_an_unknown_message_is_passed_on_in_one_line() -> None:
    assert translate_error('Parser key "a.b":\n  Something\n   new', []) == "a.b: Something new"


def test_config_paths() -> None:
    args = ["fit", "--config", "a.yaml", "--config=b.yaml", "-c", "c.yaml", "--x", "1", "--config"]
    assert config_paths(args) == [Path("a.yaml"), Path("b.yaml"), Path("c.yaml")]
