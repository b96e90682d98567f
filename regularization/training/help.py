"""What ``--help`` prints: a word for each type, and our own classes in place of all that are known."""

import re
from argparse import SUPPRESS, Action
from collections.abc import Iterable
from typing import Any

from jsonargparse import DefaultHelpFormatter, Namespace

# The first pattern that is found in an option's type tells what to call its value.
_KINDS = {
    r"^dict\b": "DICT",
    r"^(tuple|list)\b": "LIST",
    r"^Union\[str, (?!Path)[A-Z]": "NAME",
    r"\b(?!Optional|Union|Literal|Positive|Path|Any)[A-Z]\w+": "CLASS",
    r"\bPath\b": "PATH",
    r"\bstr\b": "TEXT",
    r"[fF]loat": "NUMBER",
    r"[iI]nt": "INT",
}
# In place of what our libraries say, by option.
_INSTEAD = {
    "help": "Show this and end.",
    "config": "A file of options, or the name of a config that comes with the program; of several the later ones win.",
    "print_config": "Print every option with its value, as a config, and end.",
}
# Options that take a file for a whole group: --config is enough.
HIDDEN = ("model", "trainer")


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's help without whole types and lists of hundreds of classes."""

    def __init__(self, prog: str, **layout: Any) -> None:
        super().__init__(prog, **layout)  # type: ignore[no-untyped-call]

    def add_usage(self, usage: str | None, actions: Iterable[Action], *args: Any, **kwargs: Any) -> None:
        """With what can't be left out; all the options would fill pages, and follow anyway."""
        needed = [self._needed(action) for action in actions if action.required]
        super().add_usage(usage or " ".join(["%(prog)s", *needed, "[options]"]), actions, *args, **kwargs)

    def add_text(self, text: str | None) -> None:
        """A description, which may be a docstring."""
        super().add_text(plain_text(text) if text and text != SUPPRESS else text)

    def add_argument(self, action: Action) -> None:
        """Leaves out what the description of a group tells once."""
        if action.dest not in HIDDEN and not action.dest.endswith(".help"):
            super().add_argument(action)

    def kind_of(self, action: Action) -> str:
        """A word for the values of an option."""
        return "FILE" if action.dest == "config" else value_name(self._get_type_str(action) or "")

    def _needed(self, action: Action) -> str:
        if action.option_strings:
            return self._format_action_invocation(action)
        return self._format_args(action, self._get_default_metavar_for_positional(action))

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        # With + behind its name an option adds to a list, in every way that a config can say better.
        names = ", ".join(name for name in action.option_strings if not name.endswith("+"))
        value = "" if action.nargs == 0 else self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{names} {value}".rstrip()

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        return self.kind_of(action)

    def _expand_help(self, action: Action) -> str:
        text = plain_text(_INSTEAD.get(action.dest) or action.help or "")
        parts = [f"ours: {', '.join(known)}"] if (known := ours(classes(action))) else []
        takes = action.option_strings and action.nargs != 0 and action.dest != "config"
        if takes and action.required and action.default is None:
            parts.append("required")
        elif takes and action.default not in (SUPPRESS, ""):
            parts.append(f"default: {brief(action.default)}")
        return f"{text} ({'; '.join(parts)})" if parts else text


def value_name(type_name: str) -> str:
    """One word for the values of a type, given as jsonargparse writes it."""
    bare = re.sub(r"'[^']*'", "", re.sub(r"<class '(\w+)'>", r"\1", type_name))
    return next((word for pattern, word in _KINDS.items() if re.search(pattern, bare)), "VALUE")


def classes(action: Action) -> list[str]:
    """The classes that an option takes, by their paths; none where it takes any part of a network."""
    known: str = action.extra_help() if hasattr(action, "extra_help") else ""
    return [] if "torch.nn." in known else known.removeprefix(", known subclasses: ").split(", ")


def ours(paths: list[str]) -> list[str]:
    """The names of those classes that this program offers."""
    return [path.removeprefix("regularization.") for path in paths if re.fullmatch(r"regularization\.\w+", path)]


def brief(value: Any) -> str:
    """A default as one would type it; a class with its arguments in short."""
    value = value.as_dict() if isinstance(value, Namespace) else value
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{name}={brief(given)}" for name, given in value.get("init_args", {}).items())
        name = str(value["class_path"]).rpartition(".")[2]
        return f"{name}({arguments})" if arguments else name
    return str(value) if isinstance(value, str | dict | list) else {"None": "null"}.get(str(value), str(value).lower())


def plain_text(text: str) -> str:
    """Docstrings are written for Sphinx: references lose their path, code a quote, defaults are told anyway."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", " ".join(text.split())).replace("``", "`")
    return re.sub(r" Default: \S+\.(?= |$)| \(default: [^()]*\)", "", text)
