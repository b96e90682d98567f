"""Coordinators and the processes of their trials are killed or stopped, with real processes and a real PostgreSQL."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from regularization.cli.main import main
from regularization.errors import UserError
from regularization.study.execution.storage import open_database, without_password
from tests.processes import frozen, state
from tests.study.execution.coordinators import in_the_middle, resumed, start
from tests.study.test_sweep import LAMBDA, OPTIONS, STUDY, recorded, starts, table, write
from tests.training.test_command import Refused

LONGER: dict[str, Any] = {**OPTIONS, "trainer.max_epochs": 8, "trainer.limit_train_batches": 18, "checkpoint.steps": 5}


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs."""
    found = [Path(path).resolve().parent for path in [shutil.which("initdb")] if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((path for path in found if (path / "initdb").is_file() and (path / "postgres").is_file()), None)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of an empty database."""
    if (programs := binaries()) is None:
        pytest.skip("needs PostgreSQL: no initdb on PATH or in /usr/lib/postgresql")
    psycopg2 = pytest.importorskip("psycopg2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A separate folder with a short path: PostgreSQL refuses to run as root. Root can access the folder of nobody.
    place = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = {"user": "nobody"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(place, **user)
    data = place / "data"
    options: dict[str, Any] = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    subprocess.run([programs / "initdb", "-D", data, "-U", "me", "-A", "trust", "--no-sync"], check=True, **options)
    words = ["-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(place), "-F"]
    server = subprocess.Popen([programs / "postgres", *words], **options)
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


def descendants(process: "subprocess.Popen[bytes]") -> list[int]:
    """All processes that ``process`` has started, directly or indirectly."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    found = [process.pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def trial_processes(process: "subprocess.Popen[bytes]") -> list[int]:
    """The processes of trials, which are forked from the server: only they are children of a child process."""
    parents = {
        pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in descendants(process)
    }
    return [pid for pid, parent in parents.items() if parent != process.pid and state(pid) != "Z"]


def wait_for(process: "subprocess.Popen[bytes]", condition: Callable[[], Any]) -> None:
    while not condition():
        assert process.poll() is None, Path("out.txt").read_text()
        time.sleep(0.02)


def reference(command: list[str]) -> list[dict[str, str]]:
    """Returns the table of an undisturbed study and deletes all of its files."""
    main(command)
    expected = table()
    shutil.rmtree("runs")
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "postgresql"])
def test_two_coordinators_of_which_one_is_killed(kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgresql") if kind == "postgresql" else None
    command = write(options=LONGER)
    expected = reference(command)
    shared = [*command, *(["--storage", url] if url else [])]
    first, second = (start(shared, name) for name in ("first.txt", "second.txt"))

    def both_at_work() -> bool:
        return len(in_the_middle(most=6)) == 2 and bool(trial_processes(first) and trial_processes(second))

    assert frozen(first.pid, both_at_work), Path("first.txt").read_text()
    at_work = set(in_the_middle(most=8))
    first.kill()
    first.wait()
    assert second.wait(timeout=300) == 0, Path("second.txt").read_text()
    assert table() == expected
    begun = starts()
    again = {run for run, count in begun.items() if count > 1}
    assert len(begun) == 6
    assert sum(begun.values()) == 7, "each was run once, and once more the one that was killed"
    assert again < at_work
    assert len({one.user_attrs["coordinator"] for one in recorded(url)}) == 2
    kept = recorded(url)
    assert Counter(one.user_attrs["run"] for one in kept if one.state == TrialState.COMPLETE) == Counter(list(begun))
    assert [one.user_attrs["run"] for one in kept if one.state == TrialState.FAIL] == list(again)
    (step,) = [one.user_attrs["start_step"] for one in kept if one.user_attrs["start_step"] > 0]
    assert step % 5 == 0 or step % 18 == 0
    # A third coordinator trains nothing and ends with the same lines as the second one.
    assert start(shared, "third.txt").wait(timeout=100) == 0
    assert Path("third.txt").read_text().splitlines()[-2:] == Path("second.txt").read_text().splitlines()[-2:]
    assert starts() == begun
    if url:
        assert "postgresql://me@127.0.0.1" in (STUDY / "study.yaml").read_text()


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_is_run_again_once() -> None:
    command = write(options=LONGER, vary={LAMBDA: [0, 1e-3]}, seeds=1)
    expected = reference(command)
    process = start(command)
    for attempt in (1, 2):
        wait_for(process, lambda: starts().get("final/weight_decay=0/seed_0") == attempt and in_the_middle(7))  # noqa: B023
        ((run,), (pid,)) = in_the_middle(7), trial_processes(process)
        os.kill(pid, signal.SIGKILL)
        wait_for(process, lambda: state(pid) == "Z")  # noqa: B023
    assert process.wait(timeout=100) == 0, Path("out.txt").read_text()
    out = Path("out.txt").read_text()
    assert "failed: weight_decay=0 seed 0: its process ended by signal SIGKILL, in each of 2 attempts" in out
    assert "not recommended, weight_decay=0 failed" not in out.splitlines()[-2]
    assert [row["val_accuracy"] for row in table()] == [row["val_accuracy"] for row in expected[1:]]
    assert starts()[run] == 2
    assert "weight_decay=0" in (STUDY / "report.html").read_text()
    assert start([*command, "--retry-failed"]).wait(timeout=100) == 0
    assert resumed(run) > 0
    assert [row["val_accuracy"] for row in table()] == [row["val_accuracy"] for row in expected]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_trials_within_a_step_and_a_second_one_at_once(number: int, code: int) -> None:
    command = [*write(options={**LONGER, "checkpoint.steps": None}), "--workers", "2"]
    expected = reference(command)
    process = start(command)
    wait_for(process, lambda: len(in_the_middle(4)) == 2)
    children = descendants(process)
    process.send_signal(number)
    assert process.wait(timeout=60) == code, Path("out.txt").read_text()
    assert Path("out.txt").read_text().splitlines()[-2:] == [
        f"stopped by {signal.Signals(number).name}; the same command goes on",
        str(STUDY),
    ]
    assert all(gone(pid) for pid in children)
    stopped = in_the_middle(8)
    assert len(stopped) == 2
    process = start(command)
    # Other trials run first, because stopped trials are enqueued at the end.
    wait_for(process, lambda: len(set(in_the_middle(6)) - set(stopped)) == 2)
    children = descendants(process)
    for pid in trial_processes(process):
        os.kill(pid, signal.SIGSTOP)  # it cannot finish its step any more
    process.send_signal(number)
    time.sleep(1)
    assert process.poll() is None, "it waits for the step"
    process.send_signal(number)
    assert process.wait(timeout=60) == code, Path("out.txt").read_text()
    assert all(gone(pid) for pid in children)
    assert start(command).wait(timeout=300) == 0, Path("out.txt").read_text()
    assert table() == expected


def gone(pid: int) -> bool:
    """Whether the process ends within 10 seconds; the server ends only after it notices the end of its coordinator."""
    for _ in range(200):
        if state(pid) == "Z":
            return True
        time.sleep(0.05)
    return False


def test_what_is_refused(refused: Refused, tmp_path: Path) -> None:
    command = write()
    assert "must be postgresql://" in refused(*command, "--storage", "sqlite:///x.db")
    assert "must be postgresql://" in refused(*command, "--storage", "host=h password=secret")
    pytest.importorskip("psycopg2")
    for wrong in ("postgresql://me:secret@127.0.0.1:9/none", "postgresql://me:{secret@127.0.0.1:9/none?sslmode=secret"):
        message = refused(*command, "--storage", wrong)
        assert "cannot be opened" in message
        assert "secret" not in message
    assert "--workers must be at least 1, not -1" in refused(*command, "--workers", "-1")
    assert "--threads must be at least 1, not 0" in refused(*command, "--threads", "0")


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@h/db", "postgresql://me:a%40secret@h/db", "postgresql://me@h/db?password=a%40secret"],
)
def test_a_password_is_not_shown(url: str) -> None:
    assert without_password(url) == "postgresql://me@h/db"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:top@secret@h/db",
        "postgresql://me:x@secret?y=1@h/db",
        "postgresql://me:x@secret/y@h/db",
        "postgresql://me@h/db?password=top@secret",
        "postgresql://me:secret@h:PORT/db",
        "host=h user=me password=secret",
        "postgresql://h/db password=secret",
        "user=me:secret@h",
        "secret",
    ],
)
def test_nothing_is_shown_of_a_text_that_is_not_a_url(text: str) -> None:
    assert without_password(text) == "postgresql://…"
    with pytest.raises(UserError) as error:
        open_database(text)
    assert "must be postgresql://USER@HOST/DATABASE, with the password in PGPASSWORD or ~/.pgpass" in str(error.value)
    assert "secret" not in str(error.value)
