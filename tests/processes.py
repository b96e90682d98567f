"""Processes that a test starts: stopped at a moment that is known by what they have done, and gone with the test."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STARTED: list["subprocess.Popen[bytes]"] = []


def started(process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """The same process, which is killed after the test if it is still there."""
    STARTED.append(process)
    return process


def kill_the_rest() -> None:
    """After a test that failed, some may be at work, or stopped."""
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def state(pid: int) -> str:
    """R, S or D: it runs or waits; T: it was stopped; Z: it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def frozen(pid: int, ready: Callable[[], bool], every: float = 0.01) -> bool:
    """Stops the process with SIGSTOP once it is ``ready``, which it then stays; looks ``every`` so many seconds.

    By what it has done, not by the clock: machines are not equally quick. False: it ended before.
    """
    while state(pid) != "Z":
        with suppress(ProcessLookupError):
            if ready():
                os.kill(pid, signal.SIGSTOP)
                while state(pid) not in "TZ":
                    time.sleep(0.0001)
                if state(pid) == "T" and ready():
                    return True
                os.kill(pid, signal.SIGCONT)
        time.sleep(every)
    return False
