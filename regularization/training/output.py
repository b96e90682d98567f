"""Standard output and standard error of a run, which goes on when nobody reads them any more."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class _Stream:
    """A stream that drops what cannot be written: the reader of a pipe has ended, a terminal is closed, a disk is full.

    Everything else is that of the stream within.
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
        """Where no reader will come back, the rest goes nowhere: Python itself would fail to write it when it exits."""
        with suppress(OSError, ValueError):
            if isinstance(error, BrokenPipeError) or self._stream.isatty():
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def independent_of_readers() -> Iterator[None]:
    """Within it, neither a closed pipe nor a closed terminal, which sends SIGHUP, ends the process."""
    can_ignore = hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN) if can_ignore else None
    try:
        with redirect_stdout(cast(TextIO, _Stream(sys.stdout))), redirect_stderr(cast(TextIO, _Stream(sys.stderr))):
            yield
    finally:
        if previous is not None:
            signal.signal(signal.SIGHUP, previous)
