"""A sweep on a Ray cluster of this machine: a head without cores and two workers' nodes, each with one."""

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from regularization.cli.main import main
from regularization.study.execution.cluster import _slots
from regularization.study.execution.line import STOP, Line
from tests.processes import frozen, started
from tests.study.test_sweep import OPTIONS, STUDY, table, write
from tests.training.test_command import Refused

LONGER: dict[str, Any] = {**OPTIONS, "trainer.max_epochs": 12, "trainer.limit_train_batches": 18, "checkpoint.steps": 5}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of three nodes; nothing about it is told to anyone."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'regularization[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    # Sockets lie in it, whose paths may not be long.
    place = tempfile.mkdtemp(prefix="ray-")
    # Where Ray notes the newest cluster: /tmp/ray may hold a user's own, or not exist.
    os.environ["RAY_TMPDIR"] = place
    Path(place, "ray").mkdir()
    memory: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    head = {"num_cpus": 0, "temp_dir": place, **memory}
    made: Any = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **memory)
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(place, ignore_errors=True)
        del os.environ["RAY_TMPDIR"]


def start(command: list[str], cluster: Any) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-m", "regularization", *command, "--ray", cluster.address]
    with Path("said.txt").open("ab") as said:
        return started(subprocess.Popen(words, stdout=said, stderr=said, env=environment))


def events() -> list[tuple[str, tuple[str, str], int]]:
    path = STUDY / "log.csv"
    rows = list(csv.reader(path.open(newline=""))) if path.is_file() else []
    return [(event, (arm, seed), int(step or 0)) for _, event, _, arm, seed, step in rows]


def named(kind: str) -> set[tuple[str, str]]:
    """The trials of which there is such a line."""
    return {trial for event, trial, _ in events() if event == kind}


def at_work(cluster: Any) -> list[int]:
    """The processes of tasks that run on this cluster, and on no other."""
    nodes = {one.process.pid for node in cluster.list_all_nodes() for one in node.all_processes["raylet"]}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in nodes and (path / "cmdline").read_text().startswith("ray::come"):
                found.append(int(path.name))
    return found


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(cluster: Any) -> None:
    command = write(options=LONGER)
    main(command)
    expected = table()
    plan = Counter((row["arm"], row["seed"]) for row in expected)
    shutil.rmtree("runs")

    process = start(command, cluster)

    def both_at_work() -> bool:
        """Two trials in their middle: each has a checkpoint, and won't be done before one of them is killed."""
        begun = named("start") - named("end")
        epochs = Counter(trial for event, trial, _ in events() if event == "epoch")
        return len(begun) == 2 and all(1 <= epochs[trial] <= 6 for trial in begun)

    assert frozen(process.pid, both_at_work), Path("said.txt").read_text()
    os.kill(at_work(cluster)[0], signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=300) == 0, Path("said.txt").read_text()
    assert table() == expected
    lost = [trial for event, trial, _ in events() if event == "lost"]
    assert len(lost) == 1
    assert Counter(trial for event, trial, _ in events() if event == "end") == plan
    again = [(trial, step) for event, trial, step in events() if event == "start" and step > 0]
    assert [trial for trial, _ in again] == lost
    assert again[0][1] % 5 == 0 or again[0][1] % 18 == 0


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on(cluster: Any) -> None:
    command = write(options={**LONGER, "checkpoint.steps": None})
    main(command)
    expected = table()
    shutil.rmtree("runs")

    # They write when they are asked to, in the middle of an epoch; where both were just validating, once more.
    for _ in range(10):
        before = len(events())
        process = start(command, cluster)
        while not any(event == "epoch" for event, _, _ in events()[before:]):
            assert process.poll() is None, Path("said.txt").read_text()
            time.sleep(0.02)
        if any(step % 18 for event, _, step in events() if event == "start"):
            break
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143, Path("said.txt").read_text()
        assert "the same command goes on" in Path("said.txt").read_text()
    assert process.wait(timeout=300) == 0, Path("said.txt").read_text()
    assert any(step % 18 for event, _, step in events() if event == "start")
    assert table() == expected


@pytest.mark.slow
def test_a_trial_that_no_machine_has_room_for_is_refused_at_once(cluster: Any) -> None:
    write()
    for words, message in (
        (["--threads", "2"], "no machine of the cluster has room for a trial with 2 cores (--threads) and 0 GPUs"),
        (["--gpus", "0.5"], "with 1 cores (--threads) and 0.5 GPUs (--gpus)"),
    ):
        process = start(["sweep", "--config", "tiny.yaml", *words], cluster)
        assert process.wait(timeout=100) == 2
        assert message in Path("said.txt").read_text()
        assert not Path("runs").exists()


def test_what_is_refused(refused: Refused) -> None:
    command = write()
    assert "--gpus is for a cluster" in refused(*command, "--gpus", "1")
    pytest.importorskip("ray", reason="needs Ray: pip install 'regularization[ray]'")
    assert "must be the head's host:port" in refused(*command, "--ray", "somewhere")
    assert "nobody answers there" in refused(*command, "--ray", "127.0.0.1:9")
    assert "start the sweep on a machine of the cluster" in refused(*command, "--ray", "ray://127.0.0.1:10001")


def test_a_worker_hears_in_the_middle_of_a_trial_that_it_is_to_stop() -> None:
    ours, theirs = Pipe()
    line = Line(theirs)

    def told() -> None:
        ours.send("a trial")
        ours.send(STOP)
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            told()
    finally:
        signal.signal(signal.SIGINT, before)
    assert line.recv() == "a trial"
    with theirs, line:
        line.send("heard")
    assert ours.recv() == "heard"
    for end in (ours, line, line):
        with pytest.raises((EOFError, OSError)):
            end.recv()


@pytest.mark.parametrize(
    ("room", "threads", "gpus", "slots"),
    [
        ((8, 0), 1, 0.0, 8),
        ((8, 0), 3, 0.0, 2),
        ((8, 0), 1, 1.0, 0),
        ((8, 2), 1, 1.0, 2),
        ((8, 2), 1, 0.25, 8),
        ((32, 2), 1, 0.25, 8),
        ((32, 1), 1, 0.1, 10),
        ((32, 2), 1, 0.4, 4),
        ((32, 5), 1, 2.0, 2),
        ((1, 4), 2, 1.0, 0),
    ],
)
def test_room_for_trials(room: tuple[int, float], threads: int, gpus: float, slots: int) -> None:
    assert _slots(room, threads, gpus) == slots
