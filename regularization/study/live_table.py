"""The live table of a sweep on the terminal: an arm a row; elsewhere a line for each trial that ends."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from regularization.callbacks.history import format_duration
from regularization.study.config import Trial
from regularization.study.execution.runner import Progress


class LiveTable:
    """Shows how far the trials are.

    Args:
        trials: All of them.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._trials = trials
        self._started = time.monotonic()
        self._before: float | None = None
        self._said: set[str] = set()
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator["LiveTable"]:
        """On a terminal, draws while the block runs."""
        if not sys.stdout.isatty():
            yield self
            return
        with Live(console=Console(), refresh_per_second=2) as self._live:
            yield self

    def __call__(self, progress: dict[str, Progress]) -> None:
        """Shows the progress of now."""
        if self._before is None:
            self._before = _mean_share(progress)
        if self._live is not None:
            self._live.update(self.table(progress))
            return
        for place, trial in enumerate(self._trials, start=1):
            now = progress[trial.name]
            if now.state in ("done", "failed") and trial.name not in self._said and now.epochs + len(now.reason):
                what = f"failed: {now.reason}" if now.reason else f"validation accuracy {now.accuracy:.4f}"
                print(f"{place:3}/{len(self._trials)} {trial.name}: {what}  {self._left(progress)}", flush=True)
                self._said.add(trial.name)

    def table(self, progress: dict[str, Progress]) -> Table:
        """Arms with the trials that are done, those that run, and the mean accuracy so far."""
        table = Table(title=f"trials  {self._left(progress)}", title_justify="left", show_edge=False)
        for column in ("arm", "done", "running", "validation accuracy"):
            table.add_column(column, justify="left" if column == "arm" else "right")
        for arm in dict.fromkeys(trial.arm.name for trial in self._trials):
            own = [progress[trial.name] for trial in self._trials if trial.arm.name == arm]
            running = [
                f"epoch {one.epoch}/{one.epochs}" if one.epochs else "…" for one in own if one.state == "running"
            ]
            seen = [one.accuracy for one in own if one.epochs]
            failed = sum(one.state == "failed" for one in own)
            done = f"{sum(one.state == 'done' for one in own)}/{len(own)}" + (f" {failed} failed" if failed else "")
            table.add_row(arm, done, ", ".join(running), f"{np.mean(seen):.4f}" if seen else "")
        return table

    def _left(self, progress: dict[str, Progress]) -> str:
        share = _mean_share(progress)
        gained = share - (self._before or 0.0)
        if not gained or share == 1:
            return ""
        return f"{format_duration((time.monotonic() - self._started) / gained * (1 - share))} left"


def _mean_share(progress: dict[str, Progress]) -> float:
    return float(np.mean([_share(one) for one in progress.values()]))


def _share(progress: Progress) -> float:
    if progress.state in ("done", "failed"):
        return 1.0
    return progress.epoch / progress.epochs if progress.epochs else 0.0
