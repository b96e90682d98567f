"""jsonargparse's parsing settings, which hold for the whole process."""

from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import _common, _optionals


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
