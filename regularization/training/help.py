"""The format of ``--help``: one word for each type, and of the known classes only those of this program.

argparse's formatter can only be changed by overriding its private methods, and its parsers list their options in a
private attribute; both are accessed only in this module.
"""

import re
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterable, Sequence
from typing import Any

from jsonargparse import DefaultHelpFormatter, Namespace

from regularization.internals.jsonargparse import type_name

# The first pattern that matches an option's type gives the word for its value.
_VALUE_NAMES = {
    r"^dict\b": "DICT",
    r"^(tuple|list)\b": "LIST",
    r"^Union\[str, (?!Path)[A-Z]": "NAME",
    r"\b(?!Optional|Union|Literal|Positive|Path|Any)[A-Z]\w+": "CLASS",
    r"\bPath\b": "PATH",
    r"\bstr\b": "TEXT",
    r"[fF]loat": "NUMBER",
    r"[iI]nt": "INT",
}
# Replaces the help texts of jsonargparse, by option.
_HELP_TEXTS = {
    "help": "Show this message and exit.",
    "config": "A YAML file, or the name of a config of the program. Later ones override earlier ones.",
    "print_config": "Print the config with all options, and exit.",
}
# Options that read a file for a whole group: --config does the same.
HIDDEN = ("model", "trainer")


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's help without the full types and without lists of hundreds of classes."""

    def __init__(self, prog: str, **layout: Any) -> None:
        super().__init__(prog, **layout)  # type: ignore[no-untyped-call]

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **kwargs: Any) -> None:
        """Adds the usage with only the required options; the help lists all options below it."""
        required = [self._required_option(action) for action in actions if action.required]
        super().add_usage(usage or " ".join(["%(prog)s", *required, "[options]"]), actions, *args, **kwargs)

    def add_text(self, text: str | None) -> None:
        """Adds a description, which may be a docstring, as plain text."""
        super().add_text(plain_text(text) if text and text != SUPPRESS else text)

    def add_argument(self, action: Action) -> None:
        """Adds an option, unless it is hidden or is one of the ``.help`` options, which the group's text explains."""
        if action.dest not in HIDDEN and not action.dest.endswith(".help"):
            super().add_argument(action)

    def _required_option(self, action: Action) -> str:
        if action.option_strings:
            return self._format_action_invocation(action)
        return self._format_args(action, self._get_default_metavar_for_positional(action))

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        # Option names that end with + append to a list. They are not shown: a config expresses this more clearly.
        names = ", ".join(name for name in action.option_strings if not name.endswith("+"))
        value = "" if action.nargs == 0 else self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{names} {value}".rstrip()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return value_name(action)

    def _expand_help(self, action: Action) -> str:
        text = plain_text(_HELP_TEXTS.get(action.dest) or action.help or "")
        own = own_names(class_paths(action))
        notes = [f"ours: {', '.join(own)}"] if own else []
        takes_value = action.option_strings and action.nargs != 0 and action.dest != "config"
        if takes_value and action.required and action.default is None:
            notes.append("required")
        elif takes_value and action.default not in (SUPPRESS, ""):
            notes.append(f"default: {format_default(action.default)}")
        return f"{text} ({'; '.join(notes)})" if notes else text


def actions_of(parser: ArgumentParser) -> Sequence[Action]:
    """The options of a parser; argparse has no public list of them."""
    return parser._actions


def value_name(action: Action) -> str:
    """One word for the values of an option."""
    return "FILE" if action.dest == "config" else name_of_type(type_name(action))


def name_of_type(type_text: str) -> str:
    """One word for the values of a type, which is given as jsonargparse writes it."""
    bare = re.sub(r"'[^']*'", "", re.sub(r"<class '(\w+)'>", r"\1", type_text))
    return next((word for pattern, word in _VALUE_NAMES.items() if re.search(pattern, bare)), "VALUE")


def class_paths(action: Action) -> list[str]:
    """The class paths that an option accepts; empty if it accepts any ``torch.nn`` module."""
    known: str = action.extra_help() if hasattr(action, "extra_help") else ""
    return [] if "torch.nn." in known else known.removeprefix(", known subclasses: ").split(", ")


def own_names(paths: Iterable[str]) -> list[str]:
    """The public names of this program among ``paths``, sorted, because ``paths`` are in the order of imports."""
    return sorted(path.removeprefix("regularization.") for path in paths if re.fullmatch(r"regularization\.\w+", path))


def format_default(value: Any) -> str:
    """A default as one would type it; a class with its arguments in short form."""
    value = value.as_dict() if isinstance(value, Namespace) else value
    if isinstance(value, dict) and "class_path" in value:
        arguments = [f"{name}={format_default(item)}" for name, item in value.get("init_args", {}).items()]
        name = str(value["class_path"]).rpartition(".")[2]
        return f"{name}({', '.join(arguments)})" if arguments else name
    return str(value) if isinstance(value, str | dict | list) else {"None": "null"}.get(str(value), str(value).lower())


def plain_text(text: str) -> str:
    """A docstring without Sphinx markup, module paths of references, and defaults, which are shown elsewhere."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", " ".join(text.split())).replace("``", "`")
    return re.sub(r" Default: \S+\.(?= |$)| \(default: [^()]*\)", "", text)
