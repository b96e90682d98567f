"""A sweep on a Ray cluster of this machine: a head node without cores and two worker nodes with one core each."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from regularization.cli.main import main
from regularization.study.execution.ray import _shares
from tests.processes import frozen
from tests.study.execution.coordinators import in_the_middle, resumed, start
from tests.study.test_sweep import OPTIONS, recorded, starts, table, write
from tests.training.test_command import Refused

LONGER: dict[str, Any] = {**OPTIONS, "trainer.max_epochs": 12, "trainer.limit_train_batches": 18, "checkpoint.steps": 5}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of three nodes, which reports no usage statistics."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'regularization[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    # The folder contains sockets, and their paths must be short.
    place = tempfile.mkdtemp(prefix="ray-")
    # Ray records the newest cluster in this folder. /tmp/ray may belong to a cluster of the user, or not exist.
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


def tasks(cluster: Any) -> list[int]:
    """The processes of trials that run on this cluster, and on no other."""
    nodes = {one.process.pid for node in cluster.list_all_nodes() for one in node.all_processes["raylet"]}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in nodes and (path / "cmdline").read_text().startswith("ray::run_task"):
                found.append(int(path.name))
    return found


def ended(cluster: Any) -> bool:
    """Waits up to 30 seconds for all trials to end and returns whether they did."""
    for _ in range(300):
        if not tasks(cluster):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(cluster: Any) -> None:
    command = write(options=LONGER)
    main(command)
    expected = table()
    plan = set(starts())
    shutil.rmtree("runs")

    process = start([*command, "--ray", cluster.address])

    def both_at_work() -> bool:
        """Whether two trials are in progress: each has a checkpoint and cannot finish before one of them is killed."""
        return len(in_the_middle(most=6)) == 2 and len(tasks(cluster)) == 2

    assert frozen(process.pid, both_at_work), Path("out.txt").read_text()
    os.kill(tasks(cluster)[0], signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=300) == 0, Path("out.txt").read_text()
    assert table() == expected
    begun = starts()
    assert set(begun) == plan
    (lost,) = [run for run, count in begun.items() if count == 2]
    assert sum(begun.values()) == len(plan) + 1, "no other trial was begun again"
    assert resumed(lost) > 0
    assert resumed(lost) % 5 == 0 or resumed(lost) % 18 == 0
    assert len(recorded()) == len(plan), "Ray's own retry is no other trial"


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on(cluster: Any) -> None:
    command = write(options={**LONGER, "checkpoint.steps": None})
    main(command)
    expected = table()
    shutil.rmtree("runs")
    process = start([*command, "--ray", cluster.address])
    while not in_the_middle(most=9):
        assert process.poll() is None, Path("out.txt").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143, Path("out.txt").read_text()
    assert "the same command goes on" in Path("out.txt").read_text()
    assert not tasks(cluster)
    process = start([*command, "--ray", cluster.address])
    # A second signal ends everything immediately.
    while len(tasks(cluster)) < 2:
        assert process.poll() is None, Path("out.txt").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    # The first signal may already have ended the tasks; then Python's own handler receives the second one.
    assert process.wait(timeout=60) in (130, -signal.SIGINT), Path("out.txt").read_text()
    assert ended(cluster)
    # Trials do not outlive a coordinator that is killed.
    process = start([*command, "--ray", cluster.address])
    while len(tasks(cluster)) < 2:
        assert process.poll() is None, Path("out.txt").read_text()
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert ended(cluster)
    process = start([*command, "--ray", cluster.address])
    assert process.wait(timeout=300) == 0, Path("out.txt").read_text()
    assert table() == expected


@pytest.mark.slow
def test_halving_prunes_on_a_cluster(cluster: Any) -> None:
    values = [0, 1e-3, 1e-2, 1e-1]
    options = {**OPTIONS, "trainer.max_epochs": 9}
    command = write(search="halving", options=options, vary={"model.optimizer.weight_decay": values}, seeds=1)
    assert start([*command, "--ray", cluster.address]).wait(timeout=300) == 0, Path("out.txt").read_text()
    steps = {int(row["steps"]) for row in table() if row["stage"] == "search"}
    assert min(steps) == 4, "pruned at the first rung, a ninth of the epochs"
    assert max(steps) == 36


@pytest.mark.slow
def test_a_trial_that_no_machine_has_room_for_is_refused_at_once(cluster: Any) -> None:
    write()
    for words, message in (
        (["--threads", "2"], "no machine of the cluster has room for a trial with 2 cores (--threads) and 0 GPUs"),
        (["--gpus", "0.5"], "with 1 cores (--threads) and 0.5 GPUs (--gpus)"),
    ):
        process = start(["sweep", "--config", "tiny.yaml", *words, "--ray", cluster.address])
        assert process.wait(timeout=100) == 2
        assert message in Path("out.txt").read_text()
        assert not Path("runs").exists()


def test_what_is_refused(refused: Refused) -> None:
    command = write()
    assert "--gpus is for a cluster" in refused(*command, "--gpus", "1")
    pytest.importorskip("ray", reason="needs Ray: pip install 'regularization[ray]'")
    assert "must be the head's host:port" in refused(*command, "--ray", "somewhere")
    assert "nobody answers there" in refused(*command, "--ray", "127.0.0.1:9")
    assert "must be started on a machine of the cluster" in refused(*command, "--ray", "ray://127.0.0.1:10001")


@pytest.mark.parametrize(
    ("devices", "gpus", "shares"), [(0, 1.0, 0), (2, 1.0, 2), (2, 0.25, 8), (1, 0.1, 10), (2, 0.4, 4), (5, 2.0, 2)]
)
def test_shares_of_gpus(devices: float, gpus: float, shares: int) -> None:
    assert _shares(devices, gpus) == shares
