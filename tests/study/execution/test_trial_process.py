"""The process of a trial reports to Optuna through the record that it receives."""

import pickle
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from regularization.runs import directory
from regularization.study.config import Study, build_arms, build_trials
from regularization.study.execution.queue import RUN, TrialQueue
from regularization.study.execution.storage import open_journal
from regularization.study.execution.trial_process import report_epochs
from regularization.study.samplers import halving

LAMBDA = "model.optimizer.weight_decay"


def queue() -> TrialQueue:
    """Three trials in a journal, which are pruned by halving."""
    folder, study = Path("study"), Study(base="x", vary={LAMBDA: [0, 1e-3, 1e-2]}, seeds=1)
    folder.mkdir()
    trials = build_trials(study, build_arms(study, Path()), [4], "search", [], folder)
    return TrialQueue("a study", open_journal(folder), folder, trials, halving(epochs=9))


def write_epochs(folder: Path, accuracies: Sequence[float | None]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [[epoch, "" if value is None else value] for epoch, value in enumerate(accuracies)]
    directory.write_csv(folder / directory.METRICS, ["epoch", "val_accuracy"], rows)


def test_a_record_reports_from_another_process_what_is_new() -> None:
    with closing(queue()) as coordinator:
        record = coordinator.ask()
        assert record.params == {LAMBDA: 0.0, "seed": 4}
        run = Path("study") / record.user_attrs[RUN]
        for accuracies in ([], [0.5], [0.5, None, 0.7], [0.5, None, 0.7]):
            write_epochs(run, accuracies)
            # The record is pickled for the process of the trial, in which the copy opens the journal itself.
            copy = pickle.loads(pickle.dumps(record))
            assert type(copy.study) is optuna.Study
            report_epochs(copy, run)
        (running,) = coordinator.get_trials(states=(TrialState.RUNNING,))
        assert running.intermediate_values == {1: 0.5, 3: 0.7}


def test_the_pruner_is_asked_at_each_rung(recwarn: pytest.WarningsRecorder) -> None:
    with closing(queue()) as coordinator:
        pruned = []
        for accuracies in ([0.9, 0.9], [0.1, 0.95], [0.95, 0.95]):
            record = coordinator.ask()
            run = Path("study") / record.user_attrs[RUN]
            write_epochs(run, accuracies)
            pruned.append(report_epochs(record, run))
        # The second trial has recovered only after the first rung, which is at a ninth of the epochs.
        assert pruned == [False, True, False]
    assert not [warning for warning in recwarn if "already reported" in str(warning.message)]
