"""Keeps a run alive when its standard output or standard error can no longer be written."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class _Stream:
    """Wraps a stream and drops what cannot be written: the pipe or the terminal is closed, or the disk is full.

    All other attributes are those of the wrapped stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes ``text``, or drops it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Writes what is buffered, or drops it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Redirects a closed pipe or terminal to devnull: otherwise Python would fail to flush the stream at exit."""
        with suppress(OSError, ValueError):
            if isinstance(error, BrokenPipeError) or self._stream.isatty():
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def independent_of_readers() -> Iterator[None]:
    """Prevents a closed pipe, or a closed terminal, which sends SIGHUP, from ending the process."""
    can_ignore = hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN) if can_ignore else None
    try:
        with redirect_stdout(cast(TextIO, _Stream(sys.stdout))), redirect_stderr(cast(TextIO, _Stream(sys.stderr))):
            yield
    finally:
        if previous is not None:
            signal.signal(signal.SIGHUP, previous)
