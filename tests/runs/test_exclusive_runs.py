"""A run that could be lost or falsified: two processes on it, output that nobody reads, debug runs, stale records."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from regularization.callbacks.curves import Curves
from regularization.cli.main import main
from regularization.models.classifier import ImageClassifier
from regularization.runs import run_lock
from regularization.study import found_runs, results
from regularization.training.output import independent_of_readers
from tests.conftest import rows_of
from tests.runs.test_faults import do_at
from tests.training.test_command import QUICK, RUN, Refused, interrupt_at

TINY = (*QUICK, "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1", "--trainer.max_epochs", "3")
LAST = RUN / "checkpoints" / "last.ckpt"
# Stops after the second epoch, because its loss is not lower by 99.
ARGUMENTS = "{monitor: val_loss, patience: 1, min_delta: 99}"
EARLY = f"{{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {ARGUMENTS}}}"


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the curves would take half of the time."""
    monkeypatch.setattr(Curves, "draw", lambda _: None)


def files() -> dict[Path, bytes]:
    """Everything in the current folder but TensorBoard's files."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and "tfevents" not in path.name}


def test_a_second_process_on_a_run_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)

    def second() -> None:
        for path in ("last", str(LAST)):
            said.append(refused("fit", *TINY, "--trainer.max_epochs", "9", "--ckpt_path", path))

    def in_a_thread() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(second).result()

    with monkeypatch.context() as patch:
        do_at(3, in_a_thread, patch)
        main(["fit", *TINY])
    for message in said:
        assert (
            f"process {os.getpid()} on {socket.gethostname()} is writing the run {RUN}: wait until it ends" in message
        )
    assert len(said) == 2
    assert [row["epoch"] for row in rows_of(RUN)] == [0, 1, 2]
    assert not (RUN / run_lock.OWNER).exists()
    with run_lock.exclusive_run(RUN):
        pass


def test_where_a_file_system_cannot_lock_a_run_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    main(["fit", *TINY, "--trainer.max_epochs", "1"])
    assert f"warning: cannot lock {RUN} (Function not implemented)" in capsys.readouterr().err
    with pytest.raises(OSError, match="not implemented"), run_lock.exclusive_run(Path("trial"), 0.0, required=True):
        pytest.fail("there is no lock")


def test_a_closed_pipe_or_terminal_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real pipe whose reader ends after the first epoch, and the signal of a terminal that is closed."""
    reading, writing = os.pipe()
    pipe = os.fdopen(writing, "w")

    def close() -> None:
        os.close(reading)
        signal.raise_signal(signal.SIGHUP)

    hang_up = signal.getsignal(signal.SIGHUP)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        patch.setattr(sys, "stderr", pipe)
        do_at(3, close, patch)
        main(["fit", *TINY, "--test", "last"])
    pipe.close()  # raises nothing; the remaining output is discarded
    assert signal.getsignal(signal.SIGHUP) == hang_up
    assert [row["epoch"] for row in rows_of(RUN)] == [0, 1, 2]
    assert json.loads((RUN / "result.json").read_text()).keys() >= {"best", "last", "test"}


def test_a_full_disk_under_the_output_drops_the_lines_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("out.txt").open("w") as out:
        full = [True]
        write = out.write

        class Disk:
            def __getattr__(self, name: str) -> object:
                return getattr(out, name)

            def write(self, text: str) -> int:
                if full[0]:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(text)

        monkeypatch.setattr(sys, "stdout", Disk())
        with independent_of_readers():
            print("lost")
            full[0] = False
            print("kept", flush=True)
    assert Path("out.txt").read_text().split() == ["kept"]


@pytest.mark.parametrize("continued", [False, True])
def test_a_debug_run_leaves_nothing(continued: bool, capsys: pytest.CaptureFixture[str]) -> None:
    more = []
    if continued:
        main(["fit", *TINY, "--trainer.max_epochs", "1"])
        more = ["--ckpt_path", "last"]
    before = files()
    main(["fit", *TINY, "--trainer.fast_dev_run", "2", "--test", "best", *more])
    assert files() == before
    assert "nothing is kept of a debug run" in capsys.readouterr().out
    if continued:
        main(["fit", *TINY, *more])
        assert len(rows_of(RUN)) == 3


def test_a_debug_run_that_an_early_version_kept_is_continued_in_full() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regularization.training.training_cli.TrainingCLI.is_debug_run", False)
        main(["fit", *TINY, "--trainer.fast_dev_run", "1"])
    main(["fit", "--ckpt_path", str(LAST), "--trainer.max_epochs", "3"])
    assert [row["epoch"] for row in rows_of(RUN)] == [0, 1, 2]


def test_a_drawn_seed_is_recorded_and_kept(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    def seed(number: int) -> int:
        monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
        run = RUN.with_name(f"version_{number}")
        return int(yaml.safe_load((run / "config.yaml").read_text())["seed_everything"])

    drawn = [*TINY, "--seed_everything", "true", "--trainer.max_epochs"]
    main(["fit", *drawn, "1"])
    first = seed(0)
    main(["fit", *drawn, "1"])
    assert seed(1) != first
    main(["fit", *drawn, "2", "--ckpt_path", str(LAST)])
    assert seed(0) == first
    main(["fit", *TINY, "--seed_everything", str(first), "--trainer.max_epochs", "1"])
    assert seed(2) == first
    assert rows_of(RUN.with_name("version_2"))[0]["train_loss"] == rows_of(RUN)[0]["train_loss"]
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("GROUP_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "0")
    assert "--seed_everything: give a number" in refused("fit", *drawn, "1")


def test_a_run_that_is_continued_has_no_result_until_its_new_end(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *TINY])
    early = LAST.with_name("early.ckpt")
    shutil.copy(LAST, early)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(9, patch)
        with pytest.raises(SystemExit):
            main(["fit", "--ckpt_path", str(early), "--trainer.max_epochs", "5"])
    assert not (RUN / "result.json").exists()
    assert results.read(RUN) is None
    main(["fit", *TINY, "--trainer.max_epochs", "5", "--ckpt_path", "last"])
    assert (result := results.read(RUN)) is not None
    assert len(result.rows) == 5
    assert result.row == result.rows[-1]


def damaged() -> dict[str, Callable[[], object]]:
    summary, table = RUN / "result.json", RUN / "metrics.csv"

    def without_accuracy() -> None:
        lines = table.read_text().splitlines()
        column = lines[0].split(",").index("val_accuracy")
        rows = [[*row[:column], "nan", *row[column + 1 :]] for row in (line.split(",") for line in lines[1:])]
        table.write_text("\n".join([lines[0], *(",".join(row) for row in rows)]) + "\n")

    return {
        "empty": lambda: summary.write_text(""),
        "half": lambda: summary.write_text(summary.read_text()[:40]),
        "no dict": lambda: summary.write_text("[1]"),
        "other epochs": lambda: table.write_text("".join(table.read_text().splitlines(keepends=True)[:2])),
        "nan": without_accuracy,
    }


def test_damaged_records_are_left_out_and_mended(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("0", "1"):
        main(["fit", *TINY, "--trainer.max_epochs", "2", "--seed_everything", seed])
    shutil.copytree(RUN, "whole")
    for name, damage in damaged().items():
        damage()
        with pytest.warns(UserWarning, match=r"version_0 is left out: its result.json does not fit its metrics.csv"):
            found = found_runs.find([Path("runs")]).results
        assert [result.folder.name for result in found] == ["version_1"], name
        with pytest.raises(SystemExit) as exit_:
            main(["report", str(RUN)])
        assert exit_.value.code == 2
        assert "error: there are no finished runs" in capsys.readouterr().err
        if name not in ("other epochs", "nan"):
            main(["fit", *TINY, "--trainer.max_epochs", "2", "--ckpt_path", str(LAST)])
            assert len(found_runs.find([Path("runs")]).results) == 2, name
        shutil.rmtree(RUN)
        shutil.copytree("whole", RUN)


def test_a_run_of_fit_inside_a_study_is_no_arm_of_it() -> None:
    main(["fit", *TINY, "--trainer.max_epochs", "1"])
    study = Path("study/version_0")
    shutil.copytree(RUN, study / "final" / "arm" / "0")
    shutil.copytree(RUN, study / "runs" / "mine" / "version_0")
    (study / "study.yaml").touch()
    trial = {"arm": "arm", "group": "arm", "values": {}, "seed": 0, "stage": "final", "args": [], "unregularized": True}
    (study / "final" / "arm" / "0" / "trial.json").write_text(json.dumps(trial))
    found = found_runs.find([study])
    assert [result.arm for result in found.results] == ["arm"]
    assert found.left_out == ["left out, started by no study: study/version_0/runs/mine/version_0"]
    assert [result.arm for result in found_runs.find([study / "runs"]).results] == ["mine"]


def test_trials_are_not_mixed_with_runs_unless_their_study_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    main(["fit", *TINY, "--trainer.max_epochs", "1"])
    study, single = Path("all/version_0"), Path("all/version_1")
    shutil.copytree(RUN, study / "final" / "arm" / "seed_0")
    (study / "study.yaml").touch()
    trial = {"arm": "arm", "group": "arm", "values": {}, "seed": 0, "stage": "final", "args": [], "unregularized": True}
    (study / "final" / "arm" / "seed_0" / "trial.json").write_text(json.dumps(trial))
    # An unfinished run changes nothing.
    (single / "checkpoints").mkdir(parents=True)
    assert [result.arm for result in found_runs.find([Path("all")]).results] == ["arm"]
    assert found_runs.single_study(Path("all")) == study
    shutil.rmtree(single)
    shutil.copytree(RUN, single)
    found = found_runs.find([Path("all")])
    assert [result.folder for result in found.results] == [single]
    assert found.left_out == ["left out, compared in the report of their study: 1 trials of all/version_0"]
    assert found_runs.single_study(Path("all")) is None
    for named in (study, study.resolve(), Path("all/../all/version_0/final")):
        assert len(found_runs.find([Path("all"), named]).results) == 2
    monkeypatch.chdir(study / "final")
    assert [result.arm for result in found_runs.find([Path()]).results] == ["arm"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--callbacks.es", EARLY], "2 epochs are done, then EarlyStopping ended the run"),
        (["--trainer.max_steps", "2"], "1 epoch is done and --trainer.max_steps is 2"),
        (["--trainer.max_epochs", "1"], "1 epoch is done and --trainer.max_epochs is 1"),
    ],
)
def test_why_nothing_is_left_to_train(options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *TINY, *options])
    main(["fit", *TINY, *options, "--ckpt_path", "last"])
    assert f"nothing left to train: {reason}" in capsys.readouterr().out


def test_a_run_whose_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *TINY, "--trainer.max_epochs", "1"])
    main(["fit", *TINY, "--trainer.max_time", "00:00:00:00", "--ckpt_path", "last"])
    assert "1 epoch is done, then --trainer.max_time ended the run" in capsys.readouterr().out
    main(["fit", *TINY, "--trainer.max_time", "00:01:00:00", "--ckpt_path", "last"])
    assert [row["epoch"] for row in rows_of(RUN)] == [0, 1, 2]


def test_signals_end_the_scoring_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *TINY, "--trainer.max_epochs", "1"])
    before = files()
    for command in ("validate", "test"):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            handler = signal.getsignal(number)
            step = "validation_step" if command == "validate" else "test_step"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ImageClassifier, step, lambda *_, number=number: signal.raise_signal(number))
                with pytest.raises(SystemExit) as exit_:
                    main([command, "--ckpt_path", str(LAST)])
            assert exit_.value.code == code
            name = signal.Signals(number).name
            assert f"{command} was stopped by {name}: nothing was written\n" in capsys.readouterr().out
            assert signal.getsignal(number) == handler
    assert files() == before
