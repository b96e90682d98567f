"""A user's mistake: said in one or two plain lines, with the nearest right names, and exit code 2."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module


class Mistake(Exception):
    """Something only the user can mend. Its text says what is wrong, where, and what to do; it needs no traceback."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`` (did you mean a or b?)`` with up to three of ``names`` that look like ``name``; empty when none does."""
    close = get_close_matches(name, list(dict.fromkeys(names)), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def plain(message: str, names: Iterable[str]) -> str:
    """One line out of jsonargparse's several: what is wrong, where, and the nearest of the known ``names``."""
    text = " ".join(message.split())
    if found := re.search(r"does not accept option '(.+?)'|Option '(.+?)' is not accepted", text):
        name = found[1] or found[2]
        return f"unknown option {name}{nearest(name, names)}"
    if found := re.search(r"unrecognized arguments: (.*)", text):
        option = found[1].split()[0].split("=")[0].lstrip("-")
        return f"unknown argument {found[1]}{nearest(option, names)}"
    if found := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", text):
        return f"unknown command {found[1]}; the commands are {found[2].replace(chr(39), '')}"
    where = re.search(r"Parser key \"(.+?)\"", text)
    place = f"{where[1]}: " if where else ""
    if found := re.search(r"module '(.+?)' has no attribute '(.+?)'", text):
        return f"{place}{found[1]} has no {found[2]}{nearest(found[2], dir(import_module(found[1])))}"
    if found := re.search(r"No module named '(.+?)'", text):
        return f"{place}there is no module {found[1]}"
    if found := re.search(r"Expected a <class '(\w+)'>.*Got value: (.*)|Expected a <class '(\w+)'>.*Given value: (.*)", text):
        return f"{place}expected {found[1] or found[3]}, not {found[2] or found[4]}"
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"{place}no class is called {found[1]}{nearest(found[1], names)}"
    return text if not where else place + text.split(f'"{where[1]}":', 1)[-1].strip()
