import csv
import errno
import fcntl
import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from regularization.errors import UserError
from regularization.runs import directory


@pytest.mark.parametrize(
    ("configs", "name"),
    [
        (["configs/cifar10.yaml"], "cifar10"),
        (["configs/cifar10.yaml", "configs/with/l1.yaml"], "cifar10+l1"),
        (["runs/seed/version_3/config.yaml"], "seed"),
        ([], "default"),
    ],
)
def test_run_name(configs: list[str], name: str) -> None:
    assert directory.run_name([Path(config) for config in configs]) == name


def test_each_caller_gets_its_own_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: directory.create_run_dir(tmp_path, "x"), range(40)))
    assert sorted(folder.name for folder in folders) == sorted(f"version_{number}" for number in range(40))


def test_versions_are_sorted_as_numbers(tmp_path: Path) -> None:
    for number in (2, 10, 9):
        checkpoint = tmp_path / "x" / f"version_{number}" / "checkpoints" / "last.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    (tmp_path / "x" / "version_11").mkdir()  # has nothing to continue from
    (tmp_path / "x" / "version_old").mkdir()
    assert directory.latest_with(tmp_path, "x", "last.ckpt").name == "version_10"
    assert directory.create_run_dir(tmp_path, "x").name == "version_12"
    with pytest.raises(UserError, match="--ckpt_path best: no run in"):
        directory.latest_with(tmp_path, "x", "best.ckpt")


def test_a_newer_run_without_a_checkpoint_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        (tmp_path / "x" / f"version_{number}" / "checkpoints").mkdir(parents=True)
        (tmp_path / "x" / f"version_{number}" / "config.yaml").touch()
    older = tmp_path / "x" / "version_0" / "checkpoints" / "last.ckpt"
    older.touch()
    with pytest.warns(UserWarning, match=r"version_2 has no last\.ckpt yet, so this uses .*version_0"):
        assert directory.latest_with(tmp_path, "x", "last.ckpt") == tmp_path / "x" / "version_0"
    with pytest.raises(UserError, match=r"version_2 is the newest run, but has no last\.ckpt yet") as error:
        directory.latest_with(tmp_path, "x", "last.ckpt", writes=True)
    assert f"--ckpt_path {older}" in str(error.value)


def test_runs_are_named_after_their_configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def name(*paths: str) -> str:
        return directory.run_name([Path(path) for path in paths])

    assert name() == "default"
    assert name("configs/cifar10.yaml", "configs/with/l1.yaml", "cifar10.yaml") == "cifar10+l1"
    # The config.yaml of a run has the name of the run, and any other one that of its folder.
    assert name("runs/cifar10/version_12/config.yaml") == "cifar10"
    assert name("runs/x/version_0/final/weight_decay=0.1/seed_3/config.yaml") == "weight_decay=0.1"
    assert [name(f"{folder}/config.yaml") for folder in ("exp1", "exp2", "a/exp1")] == ["exp1", "exp2", "exp1"]
    (tmp_path / "quickstart" / "version_0").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "quickstart" / "version_0")
    assert name("config.yaml") == name("../version_0/config.yaml") == "quickstart"


def test_the_run_of_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert directory.run_of(checkpoint) is None
    checkpoint.parent.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert directory.run_of(checkpoint) == tmp_path / "run"
    assert directory.run_of(tmp_path / "run" / "last.ckpt") is None


def test_results_are_added_to(tmp_path: Path) -> None:
    directory.add_result(tmp_path, {"best": 1, "last": 2})
    directory.add_result(tmp_path, {"last": 3, "test": 4})
    assert json.loads((tmp_path / "result.json").read_text()) == {"best": 1, "last": 3, "test": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_only_empty_folders_are_removed(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    directory.remove_if_empty(directory.create_run_dir(tmp_path / "runs", "x"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def hold(folder: Path, locked: Event, release: Event) -> None:
    """Runs in a separate process."""
    with directory.exclusive_lock(folder):
        locked.set()
        release.wait(30)


@pytest.mark.parametrize("end", ["returns", "killed"])
def test_a_folder_is_locked_until_the_process_ends(end: str, tmp_path: Path) -> None:
    context = get_context("spawn")
    locked, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, locked, release))
    other.start()
    assert locked.wait(30)
    with (
        pytest.raises(directory.AlreadyLocked, match="another process is using"),
        directory.exclusive_lock(tmp_path, 0.2),
    ):
        pytest.fail("two processes have the lock")
    if end == "killed":
        other.kill()
    else:
        release.set()
    with directory.exclusive_lock(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    other.join()


def test_threads_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with directory.exclusive_lock(tmp_path):
            inside.append(number)
            time.sleep(0.01)
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_a_thread_that_waits_too_long_gives_up(tmp_path: Path) -> None:
    def attempt() -> str:
        with pytest.raises(directory.AlreadyLocked) as error, directory.exclusive_lock(tmp_path, 0.0):
            pytest.fail("two threads have the lock")
        return str(error.value)

    with directory.exclusive_lock(tmp_path), ThreadPoolExecutor(1) as pool:
        assert pool.submit(attempt).result() == f"another process is using {tmp_path}"


def test_a_file_system_that_cannot_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is only a file would outlive a process that is killed."""

    def no_lock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_lock)
    with pytest.raises(OSError, match="not implemented"), directory.exclusive_lock(tmp_path):
        pytest.fail("there is no lock")


def test_a_table_is_written_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    directory.write_csv(path, ["name", "value"], [["ä, b", 0.5], ["", None]])
    assert path.read_bytes() == 'name,value\n"ä, b",0.5\n,\n'.encode()

    def rows() -> Iterator[list[int]]:
        yield [1, 2]
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match=r"table.csv: No space left on device"):
        directory.write_csv(path, ["name", "value"], rows())
    assert path.read_bytes().startswith(b'name,value\n"')
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with directory.atomic_write(path) as first, directory.atomic_write(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "the one that ends last"
    assert list(tmp_path.iterdir()) == [path]


def test_a_planted_link_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    # The name that version 0.1 used, and the name that is used next.
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0")
    (tmp_path / ".table.new.csv").symlink_to(precious)
    directory.write_csv(tmp_path / "table.csv", ["a"], [[1]])
    (tmp_path / ".table.0.new.csv").symlink_to(precious)
    with pytest.raises(UserError, match="File exists"):
        directory.write_csv(tmp_path / "table.csv", ["a"], [[2]])
    assert precious.read_text() == "mine"
    assert (tmp_path / "table.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_no_temporary_file(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with directory.atomic_write(tmp_path / "file.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert not list(tmp_path.iterdir())


def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoints" / "last.ckpt"
    kept.parent.mkdir()
    kept.touch()
    killed = directory.atomic_write(kept)
    temporary = killed.__enter__()
    assert temporary.is_file()
    directory.remove_temporary_files(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_the_message_says_what_happened(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        directory.write_text(tmp_path / "gone" / "file.txt", "x")
    assert (
        str(error.value)
        == f"cannot write {tmp_path}/gone/file.txt: there is no folder {tmp_path}/gone, or it was removed"
    )
    with pytest.raises(UserError) as error, directory.atomic_write(tmp_path / "file.txt"):
        (tmp_path / "absent").read_text()
    assert str(error.value) == f"cannot write {tmp_path}/file.txt: No such file or directory: {tmp_path}/absent"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    directory.write_text(tmp_path / "file.txt", "x")
    assert (tmp_path / "file.txt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_text_like_a_formula_is_only_a_text(tmp_path: Path) -> None:
    cells = ["=cmd|'/c calc'!A0", "+1+1", "@SUM(A1)", "-x", "-1.5e-3", "+2", "plain", -1.0, "", None, "-inf"]
    directory.write_csv(tmp_path / "table.csv", ["value"], [[cell] for cell in cells])
    with (tmp_path / "table.csv").open(newline="") as file:
        written = [row[0] if row else "" for row in list(csv.reader(file))[1:]]
    assert written == [
        "'=cmd|'/c calc'!A0",
        "'+1+1",
        "'@SUM(A1)",
        "'-x",
        "-1.5e-3",
        "+2",
        "plain",
        "-1.0",
        "",
        "",
        "-inf",
    ]
