"""Coordinators that share a study through a storage: real processes, SQLite, and a PostgreSQL that the test starts."""

import csv
import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from regularization.study.config import Arm, Trial
from tests.processes import frozen, started
from tests.study.test_sweep import LAMBDA, OPTIONS, STUDY, table, write
from tests.training.test_command import Refused

optuna = pytest.importorskip("optuna")
from regularization.cli.main import main  # noqa: E402
from regularization.runs import directory  # noqa: E402
from regularization.study.execution import storage as storage_module  # noqa: E402
from regularization.study.execution import tickets as tickets_module  # noqa: E402
from regularization.study.execution.crew import Processes, Worker  # noqa: E402
from regularization.study.execution.pending import Pending  # noqa: E402
from regularization.study.execution.runner import Progress, Runner  # noqa: E402
from regularization.study.execution.storage import Storage  # noqa: E402
from regularization.study.execution.tickets import Tickets  # noqa: E402

# A coordinator is soon taken for dead, so that the test need not wait for two minutes.
QUICK = """
import sys
from regularization.study.execution import storage
from regularization.study.execution import tickets
storage.HEARTBEAT = tickets.HEARTBEAT = 1
storage.GRACE = {grace}
from regularization.cli.main import main
main(sys.argv[1:])
"""
PLAN = Counter((f"weight_decay={value}", str(seed)) for value in ("0", "0.001", "0.1") for seed in (0, 1))


def binaries() -> Path | None:
    """Where PostgreSQL's programs are."""
    found = [Path(path).resolve().parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in found if (path / "initdb").is_file() and (path / "postgres").is_file()), None)


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty database."""
    if (programs := binaries()) is None:
        pytest.skip("needs PostgreSQL: no initdb on PATH or in /usr/lib/postgresql")
    psycopg2 = pytest.importorskip("psycopg2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A short path of its own: it refuses to run as root, who for its part can't be kept out of anywhere.
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = {"user": "nobody"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(place, **user)
    data = place / "data"
    options: dict[str, Any] = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    subprocess.run([programs / "initdb", "-D", data, "-U", "me", "-A", "trust", "--no-sync"], check=True, **options)
    place_and_line = ["-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(place), "-F"]
    server = subprocess.Popen([programs / "postgres", *place_and_line], **options)
    try:
        for _ in range(300):
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(host="127.0.0.1", port=port, user="me", dbname="postgres").close()
                break
            time.sleep(0.1)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(place)


def start(command: list[str], url: str, name: str, grace: int = 60) -> "subprocess.Popen[bytes]":
    """A coordinator that takes others for dead who have been silent for ``grace`` seconds."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Path(name).open("wb") as said:
        words: list[str] = [sys.executable, "-c", QUICK.format(grace=grace), *command, "--storage", url]
        return started(subprocess.Popen(words, stdout=said, stderr=said, env=environment))


def events(kind: str, at: str | None = None) -> Counter[tuple[str, str]]:
    path = STUDY / "log.csv"
    rows = list(csv.reader(path.open(newline=""))) if path.is_file() else []
    return Counter((arm, seed) for _, event, _, arm, seed, step in rows if event == kind and at in (None, step))


def pause(process: "subprocess.Popen[bytes]", database: Path) -> None:
    """Stops it while it holds no lock, neither the database's nor the study's: with one of them, nobody could go on."""
    while True:
        process.send_signal(signal.SIGSTOP)
        free = suppress(sqlite3.OperationalError, directory.AlreadyLocked, BlockingIOError)
        with (
            free,
            directory.exclusive_lock(STUDY, 0.0),
            (STUDY / "log.csv").open() as log,
            closing(sqlite3.connect(database, 0.5, isolation_level=None)) as connection,
        ):
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            connection.execute("BEGIN EXCLUSIVE")
            return  # closing gives it back
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)


def reference(command: list[str]) -> list[dict[str, str]]:
    """The table of a single process, which leaves nothing else."""
    main(command)
    expected = table()
    shutil.rmtree("runs")
    return expected


def both(command: list[str], url: str) -> None:
    """Two coordinators, of which each runs some, and all run everything once."""
    coordinators = [start(command, url, f"said_{number}.txt") for number in range(2)]
    for number, process in enumerate(coordinators):
        assert process.wait(timeout=300) == 0, Path(f"said_{number}.txt").read_text()
    assert events("start") == events("start", "0") == events("end") == PLAN
    for number in range(2):
        assert "weight_decay=" in Path(f"said_{number}.txt").read_text().splitlines()[-2]


@pytest.mark.slow
def test_two_coordinators_on_sqlite_run_the_plan_once() -> None:
    command = write()
    expected = reference(command)
    both(command, f"sqlite:///{Path.cwd()}/shared.db")
    assert table() == expected
    # The same command on one machine, without a storage, finds everything done.
    log = (STUDY / "log.csv").read_text()
    main(command)
    assert (STUDY / "log.csv").read_text() == log


@pytest.mark.slow
def test_two_coordinators_on_postgresql_run_the_plan_once(postgresql: str) -> None:
    command = write()
    expected = reference(command)
    both(command, postgresql)
    assert table() == expected


@pytest.mark.slow
def test_the_trials_of_a_coordinator_that_was_killed_are_finished_by_another(postgresql: str) -> None:
    command = write(options={**OPTIONS, "trainer.max_epochs": 8})
    expected = reference(command)
    first = start(command, postgresql, "first.txt", grace=3)

    def cut() -> set[tuple[str, str]]:
        return set(events("start")) - set(events("end"))

    def midway() -> bool:
        """What is cut has a checkpoint to go on from, and epochs before it."""
        return bool(cut()) and all(1 <= events("epoch")[trial] <= 4 for trial in cut())

    assert frozen(first.pid, midway), Path("first.txt").read_text()
    lost = cut()
    first.kill()
    first.wait()
    second = start(command, postgresql, "second.txt", grace=3)
    assert second.wait(timeout=300) == 0, Path("second.txt").read_text()
    assert events("end") == PLAN
    again = events("start") - events("start", "0")
    assert set(again) == lost, "what was cut goes on from a checkpoint"
    assert events("start", "0") == PLAN
    assert table() == expected


@pytest.mark.slow
def test_a_coordinator_that_is_only_slow_keeps_its_trials() -> None:
    command = write(options={**OPTIONS, "trainer.max_epochs": 8})
    url = f"sqlite:///{Path.cwd()}/shared.db"
    slow = start(command, url, "slow.txt", grace=3)
    while not events("start") and slow.poll() is None:
        time.sleep(0.05)
    pause(slow, Path("shared.db"))  # its worker goes on
    quick = start(command, url, "quick.txt", grace=3)
    assert quick.wait(timeout=300) == 0, Path("quick.txt").read_text()
    slow.send_signal(signal.SIGCONT)
    assert slow.wait(timeout=100) == 0, Path("slow.txt").read_text()
    assert events("start") == events("start", "0") == PLAN
    assert set(events("end")) == set(PLAN)
    assert not events("failed")
    assert Path("slow.txt").read_text().splitlines()[-2:] == Path("quick.txt").read_text().splitlines()[-2:]


@pytest.mark.slow
def test_halving_is_shared() -> None:
    command = write(
        search="halving", options={**OPTIONS, "trainer.max_epochs": 9}, vary={LAMBDA: [0, 1e-3, 1e-2, 1e-1]}
    )
    url = f"sqlite:///{Path.cwd()}/shared.db"
    coordinators = [start(command, url, f"said_{number}.txt") for number in range(2)]
    for number, process in enumerate(coordinators):
        assert process.wait(timeout=300) == 0, Path(f"said_{number}.txt").read_text()
    assert events("start") == events("start", "0") == events("end")
    assert [row["stage"] for row in table()].count("search") == 4


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    made = [Trial(Arm(f"a{place}", "", {}, ()), 0, "final", (), tmp_path / f"a{place}") for place in range(20)]
    for trial in made:
        trial.folder.mkdir()
    return made


def finish(trial: Trial) -> None:
    (trial.folder / "result.json").write_text("{}")


def test_every_ticket_is_taken_once(trials: list[Trial], tmp_path: Path) -> None:
    taken: list[str] = []

    def coordinate() -> None:
        tickets = Tickets(Storage(f"sqlite:///{tmp_path}/t.db"), "study", trials, tmp_path)
        tickets.look()
        while tickets.open:
            if (trial := tickets.take()) is not None:
                taken.append(trial.name)
                finish(trial)
                tickets.end(trial, 0.5, None)
            else:
                time.sleep(0.1)
                tickets.look()

    threads = [Thread(target=coordinate) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(trial.name for trial in trials)


def test_trials_get_another_ticket_only_where_nobody_will_do_them(
    trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "HEARTBEAT", 1)
    monkeypatch.setattr(storage_module, "GRACE", 1)
    trials = trials[:5]
    finish(trials[4])

    def coordinator() -> Tickets:
        made = Tickets(Storage(f"sqlite:///{tmp_path}/t.db"), "study", trials, tmp_path)
        made.look()
        return made

    dead = coordinator()
    assert dead.waiting == 4, "what is done needs no ticket"
    done, failed, given_back, lost = (dead.take() for _ in range(4))
    assert (done, failed, given_back, lost) == tuple(trials[:4])
    assert done is not None
    assert failed is not None
    assert given_back is not None
    assert lost is not None
    finish(done)
    dead.end(done, 0.5, None)
    dead.end(failed, 0.5, "it diverged")
    dead._mine = {given_back.name: dead._mine[given_back.name]}
    dead.close()
    time.sleep(2.5)
    heir = coordinator()
    heir._looked = -1e9
    heir.look()
    assert {one.name for one in (heir.take(), heir.take()) if one} == {given_back.name, lost.name}
    assert heir.take() is None
    for trial in (given_back, lost):
        finish(trial)
        heir.end(trial, 0.5, None)
    heir._looked = -1e9
    heir.look()
    assert not heir.open


def test_a_coordinator_that_was_taken_for_dead_runs_no_trial_twice(
    trials: list[Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "HEARTBEAT", 1)
    monkeypatch.setattr(storage_module, "GRACE", 1)
    tickets = Tickets(Storage(f"sqlite:///{tmp_path}/t.db"), "study", trials[:2], tmp_path)
    tickets.look()
    first = tickets.take()
    assert first is not None
    time.sleep(2.5)  # as a machine that sleeps
    tickets._looked, tickets._beat = -1e9, time.monotonic()
    tickets.look()
    other = tickets.take()
    assert {first.name, other.name if other else ""} == {trial.name for trial in trials[:2]}
    assert tickets.take() is None
    for trial in trials[:2]:
        finish(trial)
        tickets.end(trial, 0.5, None)
    tickets._looked = -1e9
    tickets.look()
    assert not tickets.open


def test_what_is_refused(refused: Refused, tmp_path: Path) -> None:
    command = write()
    assert "name another --folder" in refused(*command, "--storage", "sqlite:///x.db", "--fresh")
    said = refused(*write(search="tpe"), "--storage", "sqlite:///x.db")
    assert "search tpe proposes from one place" in said
    command = write()
    assert "can't be opened" in refused(*command, "--storage", "nonsense")
    pytest.importorskip("psycopg2")
    said = refused(*command, "--storage", "postgresql://me:secret@127.0.0.1:9/none")
    assert "can't be opened" in said
    assert "secret" not in said
    for wrong in ("postgresql://me:secret@127.0.0.1:PORT/none", "postgresql://me:{secret@127.0.0.1:9/none"):
        said = refused(*command, "--storage", wrong)
        assert "can't be opened" in said
        assert "secret" not in said
    assert "--workers must be at least 1, not -1" in refused(*command, "--workers", "-1")
    assert "--threads must be at least 1, not 0" in refused(*command, "--threads", "0")


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@h/db", "postgresql://me:a%40secret@h/db", "postgresql://me@h/db?password=a@secret"],
)
def test_a_password_is_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "_tables", lambda self: None)
    assert Storage(url).shown.replace(":***", "") == "postgresql://me@h/db"


def test_a_trial_that_another_coordinator_is_at_waits_with_its_ticket(trials: list[Trial], tmp_path: Path) -> None:
    tickets = Tickets(Storage(f"sqlite:///{tmp_path}/t.db"), "study", trials[:1], tmp_path)
    tickets.look()
    trial = tickets.take()
    assert trial is not None
    runner = Runner(tmp_path, Processes(1, 1))
    runner._pending = tickets
    runner.progress = {trial.name: Progress("running")}
    ours, theirs = Pipe()
    worker = Worker(0, ours, trial)
    runner._workers.append(worker)
    theirs.send(("busy", "another process is at work"))
    runner._hear(worker)
    assert theirs.poll(5)
    assert theirs.recv()[0] == trial, "it is tried again"
    assert not (trial.folder / "failed.txt").exists()
    assert [one.state for one in tickets._study.get_trials()] == [optuna.trial.TrialState.RUNNING]


def test_a_worker_that_is_stopped_just_when_its_trial_ends_says_both(trials: list[Trial], tmp_path: Path) -> None:
    runner = Runner(tmp_path, Processes(1, 1))
    runner._pending = Pending(trials[:1])
    trial = runner._pending.take()
    assert trial is not None
    runner.progress = {trial.name: Progress("running")}
    ours, theirs = Pipe()
    worker = Worker(0, ours, trial)
    runner._workers.append(worker)
    for message in (("end", None), ("stopped",)):
        theirs.send(message)
        runner._hear(worker)
    assert runner.progress[trial.name].state == "done"
    assert worker.trial is None


def test_the_storage_may_be_silent_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"sqlite:///{tmp_path}/t.db")
    error = optuna.exceptions.StorageInternalError("gone")
    with storage.patient():
        raise error
    monkeypatch.setattr(storage_module, "GRACE", -1)
    with pytest.raises(storage_module.UserError, match="does not answer"), storage.patient():
        raise error
    assert tickets_module.UNSEEN > 0
