"""Private parts of jsonargparse: its parsing settings, which hold for the whole process, and the text of a type."""

from argparse import Action
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import DefaultHelpFormatter, _common, _optionals


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


def type_name(action: Action) -> str:
    """The type of an option as jsonargparse's help writes it, ``int | float | null``; empty for other options.

    The type itself is a private attribute of the option too.
    """
    formatter = DefaultHelpFormatter("")  # type: ignore[no-untyped-call]
    return formatter._get_type_str(action) or ""
