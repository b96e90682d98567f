"""Processes that a test starts: they are stopped at a given point of their work, and killed after the test."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STARTED: list["subprocess.Popen[bytes]"] = []


def started(process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """Returns the same process, which is killed after the test if it still runs."""
    STARTED.append(process)
    return process


def kill_the_rest() -> None:
    """Kills all processes of a test; after a test that failed, some may still run or be stopped."""
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def state(pid: int) -> str:
    """The state of a process: R, S or D if it runs or waits, T if it is stopped, Z if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


def frozen(pid: int, ready: Callable[[], bool], every: float = 0.01) -> bool:
    """Stops the process with SIGSTOP once ``ready()`` is true, which then stays true; polls every ``every`` seconds.

    The condition is what the process has done, not a time, because machines differ in speed. Returns False if the
    process ended before.
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
