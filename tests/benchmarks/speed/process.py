"""Runs a function or a command of the program in a new process, with a pseudo-terminal if needed."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

from tests.benchmarks.speed.settings import CONFIGS

P = ParamSpec("P")
T = TypeVar("T")


def elsewhere(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a module-level ``function`` in a new process; its arguments and result must be representable in JSON."""
    return _called(output_of, function, args, kwargs)[0]


def on_terminal(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, str]:
    """Like ``elsewhere``, with a pseudo-terminal of 120×40 as stdin and stdout; also returns what was drawn there."""
    return _called(drawn_by, function, args, kwargs)


def command(*words: str) -> float:
    """Seconds of ``python -m regularization`` with these arguments, from before the process is started to its end."""
    start = time.perf_counter()
    output_of([sys.executable, "-m", "regularization", *words])
    return time.perf_counter() - start


def output_of(words: list[str]) -> str:
    """What the process prints on stdout."""
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    _check(done.returncode, words, done.stdout + done.stderr)
    return done.stdout


def drawn_by(words: list[str]) -> str:
    """What the process writes to its pseudo-terminal, which is read without delay."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    whole = environment() | {"TERM": "xterm-256color"}
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=whole) as process:
        os.close(theirs)
        drawn = b"".join(iter(lambda: _read(ours), b"")).decode(errors="replace")
    os.close(ours)
    _check(process.returncode, words, drawn)
    return drawn


def environment() -> dict[str, str]:
    """Our environment, in which this checkout comes before an installed package."""
    paths = [str(CONFIGS.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _called(
    start: Callable[[list[str]], str], function: Callable[..., T], args: object, kwargs: object
) -> tuple[T, str]:
    with TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        place = [function.__module__, function.__name__, json.dumps([args, kwargs]), str(result)]
        output = start([sys.executable, "-m", "tests.benchmarks.speed.process", *place])
        returned: T = json.loads(result.read_text())
        return returned, output


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # Linux raises this when the other side is closed
        return b""


def _check(code: int, words: list[str], output: str) -> None:
    if code:
        last = output.strip().rpartition("\n")[2]
        raise RuntimeError(f"{last}\n{' '.join(words)} ended with {code}:\n{output[-2000:]}")


def main(module: str, name: str, arguments: str, result: str) -> None:
    """Calls the function, in the new process."""
    args, kwargs = json.loads(arguments)
    Path(result).write_text(json.dumps(getattr(import_module(module), name)(*args, **kwargs)))


if __name__ == "__main__":
    main(*sys.argv[1:])
