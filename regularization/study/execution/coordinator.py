"""The coordinator: has Optuna hand out trials, an executor run them, and reports to Optuna what they did."""

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
from regularization.study.config import FAILED, PRUNED, Trial
from regularization.study.execution.executor import Epoch, Executor, TrialDied, TrialFailed, TrialStopped
from regularization.study.execution.queue import RUN, QueueEmpty, TrialQueue
from regularization.study.execution.storage import is_storage_error

# User attributes of an Optuna trial: the step that it last began or resumed at, and why it failed.
START_STEP, REASON = "start_step", "reason"


class Coordinator:
    """Runs trials by an executor until none is left, or a signal stops it.

    Args:
        executor: Where trials are run.
        score: The epoch whose validation accuracy is a trial's value: ``last`` or ``best``.
    """

    def __init__(self, executor: Executor, score: str) -> None:
        self._executor = executor
        self._score = score
        self._signals: list[int] = []

    def stopped(self) -> bool:
        """Whether a signal has come."""
        return bool(self._signals)

    def run(self, queue: TrialQueue, prune: bool, on_end: Callable[[optuna.Study, FrozenTrial], None]) -> None:
        """Runs the trials that the queue hands out.

        Args:
            queue: The trials.
            prune: Whether the queue's pruner is consulted after each epoch.
            on_end: Called after every trial.

        Raises:
            RunInterrupted: After a SIGINT or SIGTERM, when all trials have ended.
        """
        workers = self._executor.workers
        with closing(queue), self._handling_signals():
            try:
                queue.optimize(
                    lambda trial: self._objective(queue.planned[trial.user_attrs[RUN]], trial, prune),
                    n_jobs=workers,
                    catch=(TrialFailed,),
                    callbacks=[on_end],
                )
            except Exception as error:
                if is_storage_error(error):
                    raise UserError("--storage does not answer; the same command goes on once it does") from error
                # ``ask`` has ended the loop.
                if not isinstance(error, QueueEmpty | TrialStopped):
                    raise
        if self._signals:
            raise RunInterrupted(self._signals[-1])

    def run_alone(self, trial: Trial) -> None:
        """Runs one trial that is in no queue.

        Raises:
            UserError: When it failed.
            RunInterrupted: After a SIGINT or SIGTERM.
        """
        with self._handling_signals(), suppress(TrialStopped):
            try:
                self._run(trial, lambda epoch: True, interactive=False)
            except TrialFailed as error:
                raise UserError(f"{trial.name} failed: {error}") from error
        if self._signals:
            raise RunInterrupted(self._signals[-1])

    def _objective(self, trial: Trial, optuna_trial: optuna.Trial, prune: bool) -> float:
        trial.plan()
        report = Report(optuna_trial, prune, pruned=(trial.folder / PRUNED).is_file())
        try:
            # Curves begin with what the run did before.
            for row in results.read_rows(trial.folder) if (trial.folder / directory.METRICS).is_file() else []:
                report(Epoch(int(row["epoch"]) + 1, int(row["step"]), row.get("val_accuracy", math.nan)))
            if not trial.done:
                self._run(trial, report, prune)
            if (result := results.read(trial.folder, self._score)) is None:
                raise TrialFailed("it has no validation")
        except TrialFailed as error:
            # Without this file, the queue would take the trial for interrupted and hand it out again.
            directory.write_text(trial.folder / FAILED, f"{error}\n")
            optuna_trial.set_user_attr(REASON, str(error))
            raise
        if result.pruned:
            raise optuna.TrialPruned
        return result.accuracy

    def _run(self, trial: Trial, report: Callable[[Epoch], bool], interactive: bool) -> None:
        """Has the executor run the trial, and once more when its process died."""
        for attempt in range(1, self._executor.attempts + 1):
            try:
                with closing(self._executor.run(trial, interactive)) as epochs:
                    for epoch in epochs:
                        if not report(epoch):
                            return
                return
            except TrialDied as error:
                if attempt == self._executor.attempts:
                    raise TrialFailed(f"{error}, in each of {attempt} attempts") from error

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """A first SIGINT or SIGTERM stops the trials between two steps, a second one ends them at once."""

        def handle(number: int, _: Any) -> None:
            self._signals.append(number)
            if len(self._signals) == 1:
                self._executor.stop()
            else:
                self._executor.kill()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Report:
    """Reports the epochs of a trial to Optuna, each once.

    Args:
        trial: Optuna's trial.
        prune: Whether its pruner is consulted.
        pruned: Whether the trial was pruned before.
    """

    def __init__(self, trial: optuna.Trial, prune: bool, pruned: bool) -> None:
        self._trial = trial
        self._prune = prune
        self._pruned = pruned
        self._reported = 0
        self._started = False

    def __call__(self, epoch: Epoch) -> bool:
        """Returns whether to train on; what the storage does not take now is in the run folder all the same."""
        try:
            self._report(epoch)
        except Exception as error:
            if not is_storage_error(error):
                raise
        return not self._pruned

    def _report(self, epoch: Epoch) -> None:
        if epoch.started:
            self._trial.set_user_attr(START_STEP, epoch.step)
        # The pruner takes a missing score for a bad one.
        if not math.isnan(epoch.accuracy) and epoch.number > self._reported:
            self._reported = epoch.number
            self._trial.report(epoch.accuracy, epoch.number)
            self._pruned |= self._prune and self._trial.should_prune()
