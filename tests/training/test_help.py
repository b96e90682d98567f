"""What --help prints: short, in our order, without losing an option."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from regularization.cli.main import main
from regularization.training.arguments import make_parser
from regularization.training.help import actions_of, format_default, name_of_type, plain_text


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The help of a command on a terminal of 80 columns."""

    def run(*args: str) -> str:
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as exit_:
            main([*args])
        assert exit_.value.code == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_ours_comes_first_and_fits_on_two_screens(command: str, shown: Callable[..., str]) -> None:
    ours, heading, lightnings = shown(command, "--help").partition("Lightning's options:\n")
    assert heading
    assert ours.startswith(f"usage: regularization {command} [--config FILE ...] [options]\n\n")
    assert len(ours.splitlines()) < 105
    assert len(lightnings.splitlines()) < 250
    assert max(map(len, ours.splitlines())) <= 80
    order = ["--config FILE", "--ckpt_path", "model:", "data:", "--data.help Digits"]
    only_fit = ["callbacks:", "checkpoint:", "--hours NUMBER", "--test best|last", "--objective METRIC"]
    order += only_fit[:2] if command == "fit" else []
    assert sorted(order, key=ours.index) == order
    assert all((text in ours) == (command == "fit") for text in only_fit)
    assert ("--preprocess MODE" in ours) == (command != "fit")
    assert "--trainer." not in ours


def test_no_option_and_no_default_is_lost(shown: Callable[..., str]) -> None:
    text = " ".join(shown("fit", "--help").split())
    for action in actions_of(make_parser("fit")):
        if not action.dest.endswith(".help") and action.dest not in ("model", "trainer", "preprocess"):
            assert action.option_strings[-1].rstrip("+") in text
    assert "(ours: MuonAdamW, SGDW; default: SGD(lr=0.01, weight_decay=0.0001))" in text
    assert "GroupLasso, JacobianPenalty, L1, L2" in text
    data_sets = "Arrays, CIFAR10, CIFAR100, Digits, HuggingFaceData, ImageFolder, TorchvisionData"
    assert f"ours: {data_sets}; default: CIFAR10" in text
    assert "--trainer.max_epochs INT Stop training once this number of epochs is reached." in text
    assert "(default: 20)" in text
    assert not re.search(r"known subclasses|Union\[|type:|:paramref:|Default: ", text)


def test_a_class_has_a_help_of_its_own(shown: Callable[..., str]) -> None:
    text = shown("fit", "--data.help", "Digits")
    assert text.startswith("usage: regularization [options]\n")
    assert "--data.batch_size INT" in text


def test_the_other_commands(shown: Callable[..., str]) -> None:
    text = shown("sweep", "--help")
    assert text.startswith("usage: regularization sweep --config STUDY [options] [options of fit]\n")
    assert "such as sweeps/quickstart" in text
    assert "--search {grid,halving,tpe}" in text
    text = shown("predict", "--help")
    assert text.startswith("usage: regularization predict --ckpt_path PATH --images PATH [PATH ...] [options]\n")
    assert "A checkpoint, or a run folder, whose best checkpoint is used. (required)" in " ".join(text.split())
    assert shown("report", "--help").startswith("usage: regularization report FOLDER [FOLDER ...] [options]\n")


@pytest.mark.parametrize(
    ("type_name", "word"),
    [
        ("<class 'Module'>", "CLASS"),
        ("Callable[[Iterable], Optimizer]", "CLASS"),
        ("Union[str, Accelerator]", "NAME"),
        ("Union[str, Path, null]", "PATH"),
        ("Union[str, timedelta, dict[str, int], null]", "TEXT"),
        ("dict[str, Penalty | null]", "DICT"),
        ("tuple[float, float, float] | null", "LIST"),
        ("Union[int, float, null]", "NUMBER"),
        ("PositiveInt | null", "INT"),
        ("Union[bool, Literal['Warn'], null]", "VALUE"),
        ("", "VALUE"),
    ],
)
def test_a_word_for_a_type(type_name: str, word: str) -> None:
    assert name_of_type(type_name) == word


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "null"), (True, "true"), (1e-4, "0.0001"), ("runs", "runs"), ({}, "{}"), ({"class_path": "a.B"}, "B")],
)
def test_a_default_in_short(value: Any, said: str) -> None:
    assert format_default(value) == said


def test_docstrings_without_sphinx() -> None:
    text = "Like :func:`torch.no_grad`, or\n ``n``. See :paramref:`~a.b.Trainer.logger`. Default: ``None``. More."
    assert plain_text("learning rate (default: 1e-3)") == "learning rate"
    assert plain_text(text) == "Like no_grad, or `n`. See logger. More."
