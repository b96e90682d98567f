"""Starts coordinators in separate processes and reads the progress of their trials from the run folders."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from regularization.study import results
from tests.processes import started
from tests.study.test_sweep import STUDY, recorded


def start(command: Sequence[str], output: str = "out.txt") -> "subprocess.Popen[bytes]":
    """Starts the command in a process and writes its output to a file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Path(output).open("ab") as out:
        words = [sys.executable, "-m", "regularization", *command]
        return started(subprocess.Popen(words, stdout=out, stderr=out, env=environment))


def in_the_middle(most: int) -> list[str]:
    """The trials that have finished between 1 and ``most`` epochs, and that have a checkpoint but no result."""
    found = []
    for metrics in STUDY.glob("*/*/*/metrics.csv"):
        run = metrics.parent
        with suppress(OSError):
            if not (run / "result.json").exists() and (run / "checkpoints" / "last.ckpt").exists():
                rows = results.read_rows(run)
                found += [run.relative_to(STUDY).as_posix()] if 1 <= len(rows) <= most else []
    return found


def resumed(run: str) -> int:
    """The step at which the trial was last begun or resumed."""
    return [int(one.user_attrs["start_step"]) for one in recorded() if one.user_attrs.get("run") == run][-1]
