"""Selection of parameters by patterns of their names."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import Tensor

from regularization.errors import UserError, did_you_mean

Parameter = TypeVar("Parameter", bound=Tensor)


def match_patterns(
    parameters: Mapping[str, Parameter], patterns: Sequence[str], option: str, empty: str
) -> dict[str, Parameter]:
    """The ``parameters`` whose names match one of ``patterns``, in the order of the patterns.

    Args:
        parameters: Parameters by their names.
        patterns: Patterns such as ``"head.*"``. One that begins with ``!`` excludes the names that match the rest of
            it; if all patterns begin with ``!``, they exclude from all parameters.
        option: Name of the option, for the error message.
        empty: The error message for an empty selection.

    Raises:
        UserError: If a pattern matches no parameter; the message suggests names that exist. If nothing is selected.
    """
    excluding = [pattern for pattern in patterns if pattern.startswith("!")]
    selected: dict[str, Parameter] = {}
    for pattern in [pattern for pattern in patterns if pattern not in excluding] or (["*"] if excluding else []):
        selected |= _matches(parameters, pattern, option)
    for pattern in excluding:
        for name in _matches(parameters, pattern[1:], option):
            selected.pop(name, None)
    if not selected:
        raise UserError(f"{option}: {empty}")
    return selected


def _matches(parameters: Mapping[str, Parameter], pattern: str, option: str) -> dict[str, Parameter]:
    matches = {name: w for name, w in parameters.items() if fnmatchcase(name, pattern)}
    if not matches:
        hint = did_you_mean(pattern, parameters) or f", for instance {', '.join(list(parameters)[:3])}"
        raise UserError(f"{option}: {pattern!r} matches none of the {len(parameters)} parameters{hint}")
    return matches
