"""``until: decided`` as a user types it, on the digits."""

import json

import pytest
import yaml

from regularization.cli.main import main
from regularization.study.samplers import DecidingQueue
from tests.study.test_sweep import LAMBDA, STUDY, starts, table, write
from tests.training.test_command import Refused

# Differences of 60 points are ruled out within a few seeds, whatever the tiny networks learn.
DECIDED = {"until": "decided", "seeds": 2, "resolution": 60.0, "vary": {LAMBDA: [0, 1e-3, 1e-2]}}


def test_seeds_are_added_until_the_study_is_decided(capsys: pytest.CaptureFixture[str]) -> None:
    # A limit ends the study undecided; the command without it goes on.
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

    # What the looks spent was planned, and is not spent again by a report or by the same command.
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
    # With the smaller one nothing is learned.
    assert {row["arm"] for row in rows if row["stage"] == "final"} == {
        f"weight_decay={value},lr=0.1" for value in ("0", "0.001")
    }
    assert "weight_decay=0,lr=0.1" in capsys.readouterr().out.splitlines()[-2]


def test_a_trial_that_ends_after_the_decision_may_reopen_the_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decided, first = DecidingQueue.decided, iter([True])
    # As if the last of the first six trials had still run when the others decided the study.
    monkeypatch.setattr(DecidingQueue, "decided", lambda queue: next(first, False) or decided(queue))
    main([*write(**DECIDED), "--max_seeds", "4"])
    assert len(table()) > 6
    assert capsys.readouterr().out.splitlines()[-2].startswith("No λ that was tried helps")

    # A smaller resolution is not reached: all seeds are used, and what the looks spent stays spent.
    looks = json.loads((STUDY / "looks.json").read_text())
    main([*write(**DECIDED), "--max_seeds", "4", "--resolution", "0.001"])
    assert capsys.readouterr().out.splitlines()[-2].startswith(("Undecided so far", "With"))
    assert len(table()) == 12
    assert json.loads((STUDY / "looks.json").read_text())[: len(looks)] == looks
