"""Stops a process at a moment that is known by what it has done, not by the clock: machines are not equally quick."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def state(pid: int) -> str:
    """R, S or D: it runs or waits; T: it was stopped; Z: it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def frozen(pid: int, ready: Callable[[], bool], every: float = 0.01) -> bool:
    """Stops the process with SIGSTOP once it is ``ready``, which it then stays; looks ``every`` so many seconds.

    False: it ended before.
    """
    while state(pid) != "Z":
        if ready():
            os.kill(pid, signal.SIGSTOP)
            while state(pid) not in "TZ":
                time.sleep(0.0001)
            if state(pid) == "T" and ready():
                return True
            os.kill(pid, signal.SIGCONT)
        time.sleep(every)
    return False
