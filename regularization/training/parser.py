"""The parser of every command: jsonargparse's, with one-line error messages and a short help."""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from regularization.errors import UserError, find_foreign_error, find_user_error, translate_error
from regularization.training.help import HelpFormatter, actions_of

# Negative numbers that argparse takes for options before Python 3.14.
_NEGATIVE_EXPONENTIAL = re.compile(r"-(?:\d+\.?\d*|\.\d+)e[-+]?\d+", re.IGNORECASE)


class Parser(ArgumentParser):
    """A parser whose errors are raised as ``UserError``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # No abbreviations: --conf would be taken for --config, which is handled before the rest is parsed.
        defaults = {"prog": "regularization", "formatter_class": HelpFormatter, "allow_abbrev": False}
        super().__init__(*args, **{**defaults, **kwargs})

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        """Parses ``args``; a negative number such as ``-1e-4`` is a value, not an option."""
        return super().parse_args(None if args is None else _attach_numbers(args), *rest, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the UserError behind ``message``, or the original error if it comes from the user's own module."""
        raise find_user_error(ex) or find_foreign_error(ex) or UserError(translate_error(message, self.known_names()))

    def known_names(self) -> list[str]:
        """The names to suggest for a mistyped name."""
        return [action.dest for action in actions_of(self) if not action.dest.endswith(".help")]


def _attach_numbers(args: Sequence[str]) -> list[str]:
    attached: list[str] = []
    for word in args:
        if attached and attached[-1].startswith("--") and _NEGATIVE_EXPONENTIAL.fullmatch(word):
            attached[-1] += f"={word}"
        else:
            attached.append(word)
    return attached
