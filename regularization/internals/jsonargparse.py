"""Private parts of jsonargparse: its parsing settings, which hold for the whole process, and the types of options."""

from argparse import Action
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import or_
from types import UnionType
from typing import Union, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, _common, _optionals


@contextmanager
def preserve_parsing_settings() -> Iterator[None]:
    """Restores the settings of ``jsonargparse.set_parsing_settings`` at the end.

    jsonargparse 4.53 has no public way to read all of them, nor to remove an entry from the import lists. The modes in
    which config files are read are kept apart from the other settings.
    """
    settings, read_mode = dict(_common.parsing_settings), _optionals._config_read_mode
    try:
        yield
    finally:
        _common.parsing_settings.clear()
        _common.parsing_settings.update(settings)
        _optionals._config_read_mode = read_mode


@contextmanager
def no_config_files() -> Iterator[None]:
    """Prevents parsers from reading a file in place of a value, where a class is expected or for ``--config``.

    The public settings disable URLs, but not files. The private read mode is a set of conditions that a path must meet.
    It is set to conditions that no path meets: to be a file and not to be a file.
    """
    with preserve_parsing_settings():
        _optionals._config_read_mode = "fF"
        yield


def type_name(action: Action) -> str:
    """The type of an option as jsonargparse's help writes it, ``int | float | null``; empty for other options.

    The type itself is a private attribute of the option too.
    """
    formatter = DefaultHelpFormatter("")  # type: ignore[no-untyped-call]
    return formatter._get_type_str(action) or ""


def try_integers_first(parser: ArgumentParser) -> None:
    """Makes options whose type allows ``int`` and ``float`` read ``1`` as an integer.

    jsonargparse tries the types of a union in their order, and ``--trainer.limit_train_batches 1`` is one batch while
    1.0 is all of them. Lightning's type is ``Optional[Union[int, float]]``; but ``typing`` caches such types without
    regard to the order, so that it can be the ``Optional[Union[float, int]]`` of a library that was imported before.
    The type of an option is a private attribute.
    """
    for action in parser._actions:
        type_ = getattr(action, "_typehint", None)
        types = get_args(type_)
        if get_origin(type_) in (Union, UnionType) and int in types and float in types:
            # Not Union[…]: the types that | creates are not cached.
            action._typehint = reduce(or_, sorted(types, key=lambda item: item is not int))  # type: ignore[attr-defined]
