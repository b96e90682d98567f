"""The coordinator: takes trials from the queue, runs them with an executor, and reports their results to Optuna."""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.errors import UserError
from regularization.runs import directory
from regularization.study import results
from regularization.study.config import FAILED, Trial
from regularization.study.execution.executor import Executor
from regularization.study.execution.queue import RUN, QueueEmpty, TrialQueue
from regularization.study.execution.storage import is_storage_error
from regularization.study.execution.trial_process import report_epochs

# User attribute of an Optuna trial: why it failed.
REASON = "reason"
# Seconds between two checks for a signal; the end of a trial is noticed at once.
POLL = 0.1


class TrialFailed(Exception):  # noqa: N818 - a result of the trial
    """The trial has no result; the text is the reason."""


class TrialStopped(Exception):  # noqa: N818 - as above
    """The trial was stopped on request; it resumes from its checkpoint."""


class Coordinator:
    """Runs trials with an executor until none is left, or a signal stops it.

    Args:
        executor: Runs the trials.
        score: The epoch whose metric is a trial's value: ``last`` or ``best``.
    """

    def __init__(self, executor: Executor, score: str) -> None:
        self._executor = executor
        self._score = score
        self._signals: list[int] = []

    def run(self, queue: TrialQueue, on_end: Callable[[optuna.Study, FrozenTrial], None]) -> None:
        """Runs the trials that the queue hands out, and calls ``on_end`` after every trial.

        Raises:
            RunInterrupted: After a SIGINT or SIGTERM, when all trials have ended.
        """
        queue.stopped = lambda: bool(self._signals)
        with closing(queue), self._handling_signals(), suppress(QueueEmpty):
            try:
                queue.optimize(
                    lambda record: self._objective(queue, record),
                    n_jobs=self._executor.workers,
                    catch=(TrialFailed, TrialStopped),
                    callbacks=[on_end],
                )
            except Exception as error:
                if not is_storage_error(error):
                    raise
                raise UserError("--storage does not answer; the same command goes on once it does") from error

    def run_alone(self, trial: Trial) -> None:
        """Runs one trial that is in no queue.

        Raises:
            UserError: When it failed.
            RunInterrupted: After a SIGINT or SIGTERM.
        """
        with self._handling_signals(), suppress(TrialStopped):
            try:
                self._run(trial, None)
            except TrialFailed as error:
                raise UserError(f"{trial.name} failed: {error}") from error

    def _objective(self, queue: TrialQueue, record: optuna.Trial) -> float:
        trial = queue.planned[record.user_attrs[RUN]]
        trial.plan()
        try:
            if not trial.done:
                self._run(trial, record)
            # Reports all epochs if the trial was complete before it was added to this study.
            report_epochs(record, trial.folder)
            if (result := results.read(trial.folder, self._score)) is None:
                raise TrialFailed("it has no validation")
            if not math.isfinite(value := result.metric(queue.objective.metric)):
                raise TrialFailed(f"its {queue.objective.name} was not measured")
        except TrialFailed as error:
            record.set_user_attr(REASON, str(error))
            # Without this file, the queue would treat the trial as interrupted and hand it out again.
            directory.write_text(trial.folder / FAILED, f"{error}\n")
            raise
        if result.pruned:
            raise optuna.TrialPruned
        return value

    def _run(self, trial: Trial, record: optuna.Trial | None) -> None:
        """Runs the trial, and runs it again if its process died, for example because of a temporary lack of memory."""
        for _ in range(self._executor.attempts):
            with self._executor.started(trial, record) as process:
                handled = 0
                while not process.wait(POLL):
                    if len(self._signals) > handled:
                        # Signals that arrive together count as one: a wrapper may forward a signal that all processes
                        # have received.
                        process.kill() if handled else process.terminate()
                        handled = len(self._signals)
                if trial.done:
                    return
                if (trial.folder / FAILED).is_file():
                    raise TrialFailed((trial.folder / FAILED).read_text(encoding="utf-8").strip())
                if self._signals:
                    raise TrialStopped
                cause = process.cause()
        raise TrialFailed(f"{cause}, in each of {self._executor.attempts} attempts")

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """A first SIGINT or SIGTERM stops the trials between two steps, a second one ends them at once."""

        def handle(number: int, _: Any) -> None:
            self._signals.append(number)

        in_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signals:
            raise RunInterrupted(self._signals[-1])
