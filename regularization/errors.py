"""``UserError`` for mistakes that only the user can correct, and the wording of their messages."""

import re
import sys
import traceback
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module

# The packages that take part in making objects from a config.
_LIBRARIES = {
    *("regularization", "jsonargparse", "lightning", "lightning_utilities", "torch", "torchmetrics", "torchvision"),
    *("timm", "numpy", "yaml", "fsspec", "docstring_parser", "typeshed_client", "huggingface_hub", "safetensors"),
    *sys.stdlib_module_names - {"__main__"},
}
# Characters that reorder the letters after them: one name could look like another.
_DIRECTION_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class UserError(Exception):
    """A mistake that only the user can correct.

    Its text says in one or two lines what is wrong, where, and what to do. The commands print it without a traceback
    and exit with code 2.
    """


def find_user_error(error: BaseException | None) -> UserError | None:
    """The first UserError in the exception chain of ``error``, including itself; None if there is none."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


def find_foreign_error(error: BaseException | None) -> BaseException | None:
    """The first error in the exception chain of ``error`` that has passed through the user's own code.

    If this program or one of its libraries rejects a value, the mistake is in the config and one line explains it. An
    error in the user's own class needs its traceback.

    Returns:
        That error, or None if there is none.
    """
    while error is not None:
        modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
        if any(module.partition(".")[0] not in _LIBRARIES for module in modules):
            return error
        error = error.__cause__ or error.__context__
    return None


def printable(text: object) -> str:
    """A name of a file or a class as text that a terminal and a table can show on one line.

    Bytes that are not UTF-8, control characters, such as those that begin a terminal's escape sequences, line breaks
    and characters that override the direction of text become escape sequences like ``\\x1b``.
    """
    return "".join(map(_shown, str(text)))


def printable_lines(text: object) -> str:
    """A message of several lines, with each line made ``printable``."""
    return "\n".join(map(printable, str(text).split("\n")))


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    # Cc: control characters; Cs: other surrogates; Zl and Zp: line and paragraph separators.
    is_hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTION_OVERRIDES
    return character.encode("unicode_escape").decode() if is_hidden else character


def closest_matches(name: str, names: Iterable[str]) -> list[str]:
    """Up to two of ``names`` that may have been meant by ``name``, the best match first.

    The whole ``name`` is compared first, then its part before the first dot, then its part after the last one. If
    ``name`` is itself one of ``names``, it is spelled correctly but in the wrong place: the result is then names that
    end with ``.name`` or begin with ``name_``.
    """
    candidates = list(dict.fromkeys(names))
    if name in candidates:
        qualified = [candidate for candidate in candidates if candidate.endswith(f".{name}")]
        return [*qualified, *(candidate for candidate in candidates if candidate.startswith(f"{name}_"))][:2]
    for part in (name, name.partition(".")[0], name.rpartition(".")[2]):
        if matches := get_close_matches(part, candidates, n=2):
            return matches
    return []


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`` (did you mean a or b?)`` with the closest matches for ``name``; an empty string if there are none."""
    return suggest(closest_matches(name, names))


def suggest(names: Sequence[str]) -> str:
    """`` (did you mean a or b?)`` with all ``names``; an empty string if there are none."""
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def translate_error(message: str, names: Sequence[str]) -> str:
    """One line for an error message of jsonargparse: the option, what is wrong with it, and a suggestion.

    Args:
        message: The message of jsonargparse, in one or several lines.
        names: The known names of options and classes; the closest is suggested in place of an unknown one.
    """
    text = " ".join(message.replace("- Expected a <class 'NoneType'>", "").split())
    text = re.sub(r"- Expected a path but \S+ either not accessible or invalid", "", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    text = text.replace("] - Expected a typing.Literal[", ", ")
    text = re.sub(r"Group '([\w.]+)' does not accept option '", r"Group does not accept option '\1.", text)
    key = re.search(r'Parser key "(.+?)":', text)
    prefix = f"{key[1]}: " if key else ""
    text = _reason_in_union(text) or text
    for pattern, template in _TRANSLATIONS.items():
        if match := re.search(pattern, text):
            return prefix + _fill_in(template, match.groupdict(), names)
    return prefix + text.removeprefix(key[0] if key else "").strip()


def _reason_in_union(text: str) -> str:
    """The reason why a value does not match the first type of a union; empty if it is only of another type."""
    match = re.search(r"against any of the Union subtypes.* Errors: - (?P<reasons>.+?) (?:- )?Given value type:", text)
    reasons = re.split(r" - (?=[A-Z])", match["reasons"]) if match else []
    reason = next((text for text in reasons if not text.startswith("Not a valid subclass of ")), "")
    if re.fullmatch(r"Expected an? [\w.]+(\[.*\])?", reason):
        return ""
    # If the value is a class with its arguments, the reason that another library gives seldom names the class.
    value = re.search(r"Given value: Namespace\(class_path='(?:\w+\.)*(\w+)'", text)
    return reason if not reason or value is None or value[1] in reason else f"{value[1]}: {reason}"


def _fill_in(template: str, groups: dict[str, str], names: Sequence[str]) -> str:
    """``template`` with the ``groups`` of a pattern, and a suggestion for the group ``name``."""
    known = dir(import_module(groups["module"])) if "module" in groups else names
    return template.format(**groups, suggestion=did_you_mean(groups.get("name", ""), known))


# Pattern of a message of jsonargparse → message to the user. pyproject.toml bounds jsonargparse's version: its wording
# may change with any release.
_TRANSLATIONS = {
    r"does not accept option '(?P<name>.+?)'": "unknown option {name}{suggestion}",
    r"Option '(?P<name>.+?)' is not accepted": "unknown option {name}{suggestion}",
    r"unrecognized arguments: -*(?P<name>[^\s=]+)": "unknown argument {name}{suggestion}",
    r"module '(?P<module>.+?)' has no attribute '(?P<name>.+?)'": "{module} has no {name}{suggestion}",
    r"Expected an instantiatable class, but \S+ is abstract": "each penalty needs a class_path",
    r"No module named '(?P<module_name>.+?)'": "there is no module {module_name}",
    r"Expected a typing.Literal\[(?P<choices>.+?)\]. Got value: (?P<value>.*)": "must be one of {choices}, not {value}",
    r"Errors: - Expected a typing.Literal\[(?P<choices>[^]]+)\].* Given value: (?P<value>.*)": (
        "must be one of {choices}, not {value}"
    ),
    r"Multiple subclasses with name (?P<class_name>\w+)\. .*?: (?P<paths>[\w., ]+?)\.(?: |$)": (
        "several classes are named {class_name}: give one of {paths}"
    ),
    r"Importing '(?P<path>.+?)' is not allowed": (
        "the checkpoint names {path}, which is not part of this program, torch, torchvision or timm.\n"
        "If you trust the source of the checkpoint, add --trust, or name the class in your own config"
    ),
    r"Problem with given class_path '(?P<path>.+?)': (?P<reason>.*?) - Expected": "{path}: {reason}",
    r"the following arguments are required: (?P<options>.+)": "required but missing: {options}",
    r"Expected an? (?P<type>\w+)\b(?!-| import).*?(?:Got|Given) value: (?P<value>.*)": "must be {type}, not {value}",
    r"Expected a dot import path string: (?P<name>\S+)": "there is no class {name}{suggestion}",
}
