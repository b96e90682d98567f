"""``until: decided`` as a user types it, on the digits."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from regularization.cli.main import main
from regularization.study.config import Arm, Study, Trial, build_arms, build_trials
from regularization.study.execution.queue import RUN, QueueEmpty
from regularization.study.samplers import DecidingQueue, Limits
from tests.study.analysis.synthetic import sample_of
from tests.study.test_report import write_trial
from tests.study.test_sweep import LAMBDA, STUDY, starts, table, write
from tests.training.test_command import Refused

# Differences of 60 points are ruled out within a few seeds, whatever the tiny networks learn.
DECIDED = {"until": "decided", "seeds": 2, "resolution": 60.0, "vary": {LAMBDA: [0, 1e-3, 1e-2]}}


def test_seeds_are_added_until_the_study_is_decided(capsys: pytest.CaptureFixture[str]) -> None:
    # With a limit, the study ends undecided; the command without the limit continues it.
    main([*write(**DECIDED), "--trials", "6"])
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("Undecided so far: ")
    assert len(table()) == 6
    before = starts()

    main([*write(**DECIDED), "--workers", "2", "--threads", "1"])
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("No λ that was tried helps by more than 60 points compared with weight_decay=0: ")
    rows = table()
    assert 6 < len(rows) < 20
    assert {**starts(), **before} == starts()
    seeds = {arm: {row["seed"] for row in rows if row["arm"] == arm} for arm in {row["arm"] for row in rows}}
    assert all(own <= seeds["weight_decay=0"] for own in seeds.values())
    assert all({"0", "1"} <= own for own in seeds.values())

    # The looks spent the planned levels. Neither a report nor the same command spends them again.
    looks = json.loads((STUDY / "looks.json").read_text())
    planned = yaml.safe_load((STUDY / "study.yaml").read_text())["looks"]
    assert [look["alpha"] for look in looks] == [planned[look["seeds"]] for look in looks]
    main(["report", str(STUDY)])
    assert capsys.readouterr().out.splitlines()[-2] == out[-2]
    main([*write(**DECIDED), "--workers", "2", "--threads", "1"])
    assert capsys.readouterr().out.splitlines()[-2] == out[-2]
    assert json.loads((STUDY / "looks.json").read_text()) == looks
    assert table() == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {LAMBDA: [1e-3, 1e-2]}}, "until: decided needs a baseline"),
        ({"vary": {LAMBDA: [1e-3, 1e-2]}, "search": "tpe", "proposals": 2}, "until: decided needs a baseline"),
        ({"vary": {LAMBDA: [0, 1e-2], "model.optimizer.lr": [0.1, 0.2]}}, "until: decided needs a baseline: one arm"),
        ({"until": "seeds", "args": ["--trials", "3"]}, "--trials and --hours are limits for until: decided"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str, refused: Refused) -> None:
    args = changes.pop("args", [])
    assert isinstance(args, list)
    assert message in refused(*write(**(DECIDED | changes)), *args)


def test_every_arm_chooses_its_learning_rate(capsys: pytest.CaptureFixture[str]) -> None:
    main(write(seeds=2, learning_rates=[1e-9, 0.1], vary={LAMBDA: [0, 1e-3]}))
    rows = table()
    assert {row["arm"] for row in rows if row["stage"] == "search"} == {
        f"weight_decay={value},lr={rate}" for value in ("0", "0.001") for rate in ("1e-09", "0.1")
    }
    # With the smaller learning rate, nothing is learned.
    assert {row["arm"] for row in rows if row["stage"] == "final"} == {
        f"weight_decay={value},lr=0.1" for value in ("0", "0.001")
    }
    assert "weight_decay=0,lr=0.1" in capsys.readouterr().out.splitlines()[-2]


def test_a_trial_that_ends_after_the_decision_may_reopen_the_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decided, first = DecidingQueue.decided, iter([True])
    # Simulates that the last of the first six trials was still running when the others decided the study.
    monkeypatch.setattr(DecidingQueue, "decided", lambda queue: next(first, False) or decided(queue))
    main([*write(**DECIDED), "--max_seeds", "4"])
    assert len(table()) > 6
    assert capsys.readouterr().out.splitlines()[-2].startswith("No λ that was tried helps")

    # A smaller resolution is not reached: all seeds are used, and the levels that the looks spent stay spent.
    looks = json.loads((STUDY / "looks.json").read_text())
    main([*write(**DECIDED), "--max_seeds", "4", "--resolution", "0.001"])
    assert capsys.readouterr().out.splitlines()[-2].startswith(("Undecided so far", "With"))
    assert len(table()) == 12
    assert json.loads((STUDY / "looks.json").read_text())[: len(looks)] == looks


def make_queue(study: Study, folder: Path) -> DecidingQueue:
    """The queue of a study in a new folder, with limits that are not reached."""
    arms = build_arms(study, Path())
    folder.mkdir()

    def plan(arms: Sequence[Arm], seeds: Sequence[int]) -> list[Trial]:
        return build_trials(study, arms, seeds, "final", [], folder)

    where = ("x", optuna.storages.InMemoryStorage(), folder, plan(arms, study.first_seeds()))
    limits = Limits(60, None)
    return DecidingQueue(*where, study=study, arms=arms, baseline=arms[0].name, plan=plan, limits=limits)


def run_queue(study: Study, accuracy: Callable[[Trial], float | None]) -> list[Trial]:
    """Hands out trials until the queue ends, with made-up accuracies; None stands for a trial that fails."""
    folder = Path("study")
    queue = make_queue(study, folder)
    trials = []
    with closing(queue), suppress(QueueEmpty):
        while True:
            asked = queue.ask()
            trial = queue.planned[asked.user_attrs[RUN]]
            value = accuracy(trial)
            write_trial(folder, trial.arm.name, trial.seed, value, reason="diverged")
            queue.tell(asked, value, optuna.trial.TrialState.FAIL if value is None else None)
            trials.append(trial)
    return trials


def made_up(trial: Trial) -> float:
    """An accuracy with a peak at λ = 0.003, 2 points above that of λ = 0, with a noise of half a point."""
    strength = trial.arm.values[LAMBDA]
    distance = abs(math.log10(strength / 3e-3)) if strength else 4.0
    noise = np.random.default_rng([trial.seed, round(strength * 1e6)]).normal(0, 0.005)
    return float(0.82 - 0.005 * distance + 0.01 * trial.seed / 20 + noise)


def test_refine_adds_values_between_the_two_best() -> None:
    values = [0, 1e-4, 1e-3, 1e-2]
    study = Study(base="x", vary={LAMBDA: values}, until="decided", refine=True, seeds=2, max_seeds=12, resolution=0.5)
    trials = run_queue(study, made_up)
    first, later = trials[:8], trials[8:]
    assert Counter(trial.arm.values[LAMBDA] for trial in first) == dict.fromkeys(values, 2)
    refined = list(dict.fromkeys(trial.arm.name for trial in later if trial.arm.values[LAMBDA] not in values))
    # The refined value is the geometric mean of the two best ones. Its trials begin with the first seed.
    assert refined[0] == "weight_decay=0.0032"
    assert len(refined) <= 2
    for name in refined:
        own = [trial.seed for trial in later if trial.arm.name == name]
        assert own == list(range(len(own)))


def test_the_two_best_values_are_found_within_seeds() -> None:
    values = [0, 1e-4, 1e-3, 1e-2]
    study = Study(base="x", vary={LAMBDA: values}, until="decided", refine=True, seeds=1)
    # Gains of 0, 0, 2 and 1 points; every seed is five points better than the one before.
    table = 0.6 + np.array([[0], [0], [0.02], [0.01]]) + 0.05 * np.arange(4)
    table[1:3, 1:] = math.nan
    queue = make_queue(study, Path("study"))
    with closing(queue):
        arm = queue._refined(sample_of(table))
    assert arm is not None
    assert arm.name == "weight_decay=0.0032"


def test_one_seed_of_each_is_enough_to_start() -> None:
    values = [0, 1e-4, 1e-3, 1e-2]
    study = Study(base="x", vary={LAMBDA: values}, until="decided", seeds=1, max_seeds=12)
    trials = run_queue(study, made_up)
    assert [trial.seed for trial in trials[:4]] == [0] * 4
    assert len({trial.folder for trial in trials}) == len(trials)
    counts = Counter(trial.arm.values[LAMBDA] for trial in trials)
    # The peak is at 0.003; values far below it are not tried again.
    assert counts[0] > 1
    assert max(counts[1e-3], counts[1e-2]) > 1
    assert counts[1e-4] <= 2


def test_without_refine_no_value_is_added() -> None:
    values = [0, 1e-4, 1e-3, 1e-2]
    study = Study(base="x", vary={LAMBDA: values}, until="decided", seeds=2, max_seeds=12)
    assert {trial.arm.values[LAMBDA] for trial in run_queue(study, made_up)} == set(values)


def test_an_arm_with_a_failed_trial_gets_no_more_seeds() -> None:
    study = Study(base="x", vary={LAMBDA: [0, 1e-3, 1e-2]}, until="decided", seeds=2, max_seeds=8, resolution=0.5)

    def accuracy(trial: Trial) -> float | None:
        failed = trial.arm.values[LAMBDA] == 1e-2 and trial.seed == 1
        return None if failed else made_up(trial) + 0.2 * (trial.arm.values[LAMBDA] == 1e-2)

    later = run_queue(study, accuracy)[6:]
    assert later, "the best arm does not decide the study, because one of its trials has failed"
    assert {trial.arm.values[LAMBDA] for trial in later} == {0, 1e-3}


def test_if_all_other_arms_have_failed_trials_the_study_ends() -> None:
    study = Study(base="x", vary={LAMBDA: [0, 1e-3, 1e-2]}, until="decided", seeds=2)
    trials = run_queue(study, lambda trial: None if trial.arm.values[LAMBDA] and trial.seed else made_up(trial))
    assert len(trials) == 6


def test_with_a_baseline_that_always_fails_no_more_seeds_are_tried() -> None:
    study = Study(base="x", vary={LAMBDA: [0, 1e-3, 1e-2]}, until="decided", seeds=2)
    trials = run_queue(study, lambda trial: made_up(trial) if trial.arm.values[LAMBDA] else None)
    assert len(trials) == 6
