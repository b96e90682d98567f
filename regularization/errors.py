"""A user's mistake: said in one or two plain lines, with the nearest right names, and exit code 2."""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module


class UserError(Exception):
    """Something only the user can mend. Its text says what is wrong, where, and what to do; it needs no traceback."""


def find_user_error(error: BaseException | None) -> UserError | None:
    """The UserError that ``error`` is, or was raised because of; None when there is none."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`` (did you mean a or b?)`` with up to two of ``names`` that look like ``name`` or an end of it; else nothing.

    Where ``name`` itself is one of them, it was right but in the wrong place: then those that begin or end with it.
    """
    known = list(dict.fromkeys(names))
    if name in known:
        ends = [one for one in known if one.endswith(f".{name}")]
        return suggest([*ends, *(one for one in known if one.startswith(f"{name}_"))][:2])
    for part in (name, name.partition(".")[0], name.rpartition(".")[2]):
        if close := get_close_matches(part, known, n=2, cutoff=0.6):
            return suggest(close)
    return ""


def suggest(names: Sequence[str]) -> str:
    """`` (did you mean a or b?)`` with all ``names``; nothing without any."""
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def translate_error(message: str, names: Sequence[str]) -> str:
    """One line out of jsonargparse's several: where, what is wrong, and the nearest of the known ``names``."""
    text = " ".join(message.replace("- Expected a <class 'NoneType'>", "").split())
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid", "", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    place = re.search(r'Parser key "(.+?)":', text)
    where = f"{place[1]}: " if place else ""
    for pattern, say in _SAYINGS.items():
        if found := re.search(pattern, text):
            return where + say(found, names)
    return where + text.removeprefix(place[0] if place else "").strip()


# What jsonargparse says (its version is bounded for this), and what a person wants to hear.
_SAYINGS: dict[str, Callable[[re.Match[str], Sequence[str]], str]] = {
    r"does not accept option '(.+?)'": lambda found, names: f"unknown option {found[1]}{did_you_mean(found[1], names)}",
    r"Option '(.+?)' is not accepted": lambda found, names: f"unknown option {found[1]}{did_you_mean(found[1], names)}",
    r"unrecognized arguments: -*([^\s=]+)": lambda found, names: (
        f"unknown argument {found[1]}{did_you_mean(found[1], names)}"
    ),
    r"module '(.+?)' has no attribute '(.+?)'": lambda found, _: (
        f"{found[1]} has no {found[2]}{did_you_mean(found[2], dir(import_module(found[1])))}"
    ),
    r"Expected an instantiatable class, but \S+ is abstract": lambda *_: "each of the penalties needs a class_path",
    r"No module named '(.+?)'": lambda found, _: f"there is no module {found[1]}",
    r"Expected a typing.Literal\[(.+?)\]. Got value: (.*)": lambda found, _: (
        f"must be one of {found[1]}, not {found[2]}"
    ),
    r"Importing '(.+?)' is not allowed": lambda found, _: (
        f"the checkpoint wants to run {found[1]}, which belongs neither to this program nor to torch, torchvision or "
        "timm.\nIf you trust whoever made the checkpoint, add --trust, or name the class in your own config"
    ),
    r"Problem with given class_path '(.+?)': (.*?) - Expected": lambda found, _: f"{found[1]}: {found[2]}",
    r"the following arguments are required: (.+)": lambda found, _: f"--{found[1]} is missing",
    r"Expected an? (\w+)\b(?!-| import).*?(?:Got|Given) value: (.*)": lambda found, _: (
        f"must be {found[1]}, not {found[2]}"
    ),
    r"Expected a dot import path string: (\S+)": lambda found, names: (
        f"no class is called {found[1]}{did_you_mean(found[1], names)}"
    ),
}
