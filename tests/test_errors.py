import os

import pytest

from regularization.errors import (
    UserError,
    closest_matches,
    did_you_mean,
    find_user_error,
    printable,
    printable_lines,
    translate_error,
)


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("weight_decya", ["weight_decay"]),
        ("optimizer.lrr", ["optimizer.lr"]),
        ("modle.anything.else", ["model"]),
        ("zzz", []),
    ],
)
def test_closest_matches(name: str, matches: list[str]) -> None:
    assert closest_matches(name, ["weight_decay", "optimizer.lr", "model", "model"]) == matches


def test_closest_matches_for_a_correct_name_in_the_wrong_place() -> None:
    names = ["seed_everything", "model", "data.seed", "seed"]
    assert closest_matches("seed", names) == ["data.seed", "seed_everything"]
    assert closest_matches("model", names) == []


def test_did_you_mean() -> None:
    assert did_you_mean("seed", ["seed", "seed_everything", "data.seed"]) == (
        " (did you mean data.seed or seed_everything?)"
    )
    assert did_you_mean("sede", ["seed"]) == " (did you mean seed?)"
    assert did_you_mean("zzz", ["seed"]) == ""


@pytest.mark.parametrize(
    ("message", "translation"),
    [
        ("Option 'lrr' is not accepted", "unknown option lrr (did you mean lr?)"),
        (
            "Parser key \"a.b\":\n  module 'math' has no attribute 'factoriall'",
            "a.b: math has no factoriall (did you mean factorial?)",
        ),
        ("the following arguments are required: ckpt_path, images", "required but missing: ckpt_path, images"),
        ("Parser key \"a\":\n  Expected a <class 'int'>. Got value: {x}", "a: must be int, not {x}"),
        ('Parser key "a.b":\n  Something\n   new', "a.b: Something new"),
        (
            'Parser key "a.b":\n\n  - Expected a path but Two either not accessible or invalid\n'
            "  - Does not validate against any of the Union subtypes\n  Subtypes: [typing.Callable[[x], y], <class "
            "'NoneType'>]\n  Errors:\n    - Multiple subclasses with name Two. Give the full class path to avoid "
            "ambiguity: a.Two, b.Two.\n    - Expected a <class 'NoneType'>\n  Given value type: <class 'str'>\n"
            "  Given value: Two",
            "a.b: several classes are named Two: give one of a.Two, b.Two",
        ),
        (
            "Does not validate against any of the Union subtypes\nSubtypes: [<class 'a.Call'>, <class 'NoneType'>]\n"
            "Errors:\n  - Invalid decay 1.5 - one of [0, 1].\n  - Expected a <class 'NoneType'>\nGiven value type: "
            "<class 'a.Namespace'>\nGiven value: Namespace(class_path='a.EMA', init_args=Namespace(decay=1.5))",
            "EMA: Invalid decay 1.5 - one of [0, 1].",
        ),
        (
            "Does not validate against any of the Union subtypes\nSubtypes: [<class 'a.Module'>, dict[str, a.Module]]\n"
            "Errors:\n  - Expected a <class 'dict'>\n  - Does not validate against any of the Union subtypes\n"
            "    Subtypes: [x]\n    Errors:\n      - Found a bad alpha\n    Given value type: <class 'a.Namespace'>\n"
            "    Given value: Namespace(class_path='MixUp')\nGiven value type: <class 'dict'>\nGiven value: {'a': 1}",
            "MixUp: Found a bad alpha",
        ),
        (
            'Parser key "p":\n  Does not validate against any of the Union subtypes\n  Subtypes: [x]\n  Errors:\n    - '
            "Expected a typing.Literal[64, 32]\n    - Expected a typing.Literal['64', 'bf16']\n    - Expected a <class "
            "'NoneType'>\n  Given value type: <class 'str'>\n  Given value: 17",
            "p: must be one of 64, 32, '64', 'bf16', not 17",
        ),
    ],
)
def test_translate_error(message: str, translation: str) -> None:
    assert translate_error(message, ["lr", "momentum"]) == translation


def test_find_user_error() -> None:
    mistake = UserError("wrong")
    error = ValueError()
    error.__cause__ = KeyError()
    error.__cause__.__context__ = mistake
    assert find_user_error(error) is mistake
    assert find_user_error(ValueError()) is None
    assert find_user_error(None) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a\x1b]0;title\x07b\x9b1mc", r"a\x1b]0;title\x07b\x9b1mc"),
        ("row\r\nrow\x85\u2028row\t", r"row\r\nrow\x85\u2028row\t"),
        (os.fsdecode(b"latin-\xe9"), r"latin-\xe9"),
        ("half \ud83d", r"half \ud83d"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("Zürich 東京 עברית 👩‍👩‍👧", "Zürich 東京 עברית 👩‍👩‍👧"),
    ],
)
def test_names_are_shown_on_one_line_without_control_characters(name: str, text: str) -> None:
    assert printable(name) == text
    assert printable(text) == text
    assert printable_lines(f"a\n{printable(name)}") == f"a\n{text}"
    assert printable_lines("a\x1b\nb\r") == r"a\x1b" + "\n" + r"b\r"
