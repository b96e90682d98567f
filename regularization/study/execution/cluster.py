"""A crew on a Ray cluster, the extra ``ray``: each worker is a task, on cores or a share of a GPU of some machine."""

import contextlib
import logging
import os
import secrets
import signal
import socket
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from regularization.errors import UserError
from regularization.study.execution.crew import Worker
from regularization.study.execution.line import STOP, Line
from regularization.study.execution.worker import work

# What a trial reads from its environment, and what finds this program where it is not installed.
ENVIRONMENT = ("CIFAR10_ROOT", "CIFAR100_ROOT", "PYTHONPATH")
# Tasks that end before they have come: by then it is not one machine that died.
FALSE_STARTS = 3


def ray() -> Any:
    """The module.

    Raises:
        UserError: When it is not installed.
    """
    try:
        import ray as module
    except ImportError as error:
        raise UserError("this needs Ray: pip install 'regularization[ray]'") from error
    return module


class RayTasks:
    """Tasks of a Ray cluster, which take trials for as long as there are some.

    A worker that dies costs no trial: it goes on elsewhere, from its checkpoint on the folder that all machines share.
    One that has cost three workers has failed.

    Args:
        address: Of the cluster's head, ``host:port``, or ``auto`` for the one of this machine.
        size: Trials at a time; None for as many as there is room for.
        threads: CPU threads, and so cores, of each; None shares them out among ``size``.
        gpus: GPUs of each, a fraction to share one; None for one where the cluster has any.

    Raises:
        UserError: When there is no such cluster, or no machine of it has room for a trial.
    """

    lives = 3

    def __init__(self, address: str, size: int | None, threads: int | None, gpus: float | None) -> None:
        self._ray = ray()
        self._connect(address)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        rooms = [(int(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in nodes]
        self._gpus = gpus if gpus is not None else float(any(room[1] for room in rooms))
        cores = sum(room[0] for room in rooms)
        self.threads = threads or max(1, min(max(room[0] for room in rooms), cores // size if size else 1))
        slots = sum(_slots(room, self.threads, self._gpus) for room in rooms)
        if not slots:
            has = ", ".join(f"{room[0]} cores and {room[1]:g} GPUs" for room in rooms)
            asked = f"{self.threads} cores (--threads) and {self._gpus:g} GPUs (--gpus)"
            raise UserError(f"no machine of the cluster has room for a trial with {asked};\nthey have: {has}")
        self.size = size or slots
        self._tasks: dict[int, Any] = {}
        self._coming: set[int] = set()
        self._hired = self._false_starts = 0
        self._listener: Listener | None = None

    @property
    def coming(self) -> int:
        """Tasks that wait for room, or whose machine is still importing."""
        return len(self._coming)

    def begin(self, folder: Path) -> None:
        """Opens the door that they will knock at."""
        self._folder = folder.resolve()
        self._key = secrets.token_bytes(32)
        self._listener = Listener((self._ray.util.get_node_ip_address(), 0), backlog=64)
        self._arrivals: SimpleQueue[Worker] = SimpleQueue()
        self._closed = Event()
        Thread(target=_receive, args=(self._listener, self._key, self._arrivals, self._closed), daemon=True).start()

    def hire(self) -> None:
        """Submits a task, which Ray starts when and where there is room."""
        assert self._listener is not None
        self._hired += 1
        options = {"num_cpus": self.threads, "num_gpus": self._gpus, "max_retries": 0}
        task = self._ray.remote(come).options(**options)
        door = (self._listener.address, self._key)
        place = (str(Path.cwd()), str(self._folder))
        self._tasks[self._hired] = task.remote(door, self._hired, place, self.threads, bool(self._gpus))
        self._coming.add(self._hired)

    def arrived(self) -> list[Worker]:
        """Those who have knocked.

        Raises:
            UserError: When one said that it can't work, or several ended before they came.
        """
        new = []
        while not self._arrivals.empty():
            worker = self._arrivals.get()
            self._coming.discard(worker.number)
            self._false_starts = 0
            new.append(worker)
        for number in self._ended(self._coming):
            self._coming.discard(number)
            said = self._outcome(number)
            del self._tasks[number]
            self._false_start(said, at_work=len(self._tasks) > len(self._coming))
        return new

    def _false_start(self, said: Any, at_work: bool) -> None:
        """A task has ended before it came. While others are at work, it is one place less; else it is the end."""
        self._false_starts += 1
        if at_work:
            self.size = max(1, self.size - 1)
        elif isinstance(said, UserError):
            raise said
        elif self._false_starts >= FALSE_STARTS:
            raise UserError(f"workers on the cluster end before they begin: {said}")

    def gone(self) -> set[int]:
        """Those whose task has ended: of a machine that lost its power, only Ray knows."""
        return self._ended(set(self._tasks) - self._coming)

    def stop(self, worker: Worker) -> None:
        """Says so: Ray's own cancellation ends this process where the task is just about to end (2.60)."""
        with contextlib.suppress(OSError):
            worker.connection.send(STOP)

    def kill(self, worker: Worker) -> None:
        """Ends the task's process."""
        self._ray.cancel(self._tasks[worker.number], force=True)

    def bury(self, worker: Worker) -> str:
        """What Ray says of it; a line may also break while the task lives on."""
        said = self._outcome(worker.number)
        if not self._ended({worker.number}):
            self.kill(worker)
        del self._tasks[worker.number]
        return f"it has cost {self.lives} workers, the last one ended by {said}"

    def end(self) -> None:
        """Takes back the tasks that have not come, lets the others end, and closes the door."""
        if self._listener is None:
            return
        for number in self._coming:
            self._ray.cancel(self._tasks[number], force=True)
        if left := [task for number, task in self._tasks.items() if number not in self._coming]:
            self._ray.wait(left, num_returns=len(left), timeout=10)
        self._closed.set()
        with contextlib.suppress(OSError):
            # The thread at the door can't be woken otherwise.
            socket.create_connection(self._listener.address, timeout=5).close()
        self._listener.close()
        self._listener = None
        self._tasks.clear()
        self._coming.clear()

    def _connect(self, address: str) -> None:
        if address.startswith("ray://"):
            raise UserError(
                f"--ray {address}: start the sweep on a machine of the cluster, and give its head's host:port"
            )
        if address != "auto":
            self._knock(address)
        passed = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
        before = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(address=address, runtime_env={"env_vars": passed}, **quiet)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            said = " ".join(str(error).split())
            raise UserError(f"--ray {address}: no cluster can be used from this machine: {said[:300]}") from error
        finally:
            # Ray puts its own there.
            signal.signal(signal.SIGTERM, before)

    def _knock(self, address: str) -> None:
        """Ray itself would try for minutes."""
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--ray {address}: must be the head's host:port, such as 10.0.0.5:6379, or auto")
        try:
            # What Ray makes of this machine's own names.
            here = self._ray.util.get_node_ip_address() if host in ("localhost", "127.0.0.1") else host
            socket.create_connection((here, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--ray {address}: nobody answers there ({error}).\nA head is started by: ray start --head"
            ) from error

    def _ended(self, numbers: set[int]) -> set[int]:
        by_task = {self._tasks[number]: number for number in numbers}
        if not by_task:
            return set()
        ready, _ = self._ray.wait(list(by_task), num_returns=len(by_task), timeout=0)
        return {by_task[task] for task in ready}

    def _outcome(self, number: int) -> Any:
        """What became of a task: a UserError that it returned, or the first line of Ray's error."""
        try:
            return self._ray.get(self._tasks[number], timeout=5)
        except Exception as error:
            return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def come(door: tuple[Any, bytes], number: int, place: tuple[str, str], threads: int, gpu: bool) -> UserError | None:
    """The task: goes to the coordinator and works for it; returns why it can't, when it can't.

    Args:
        door: The coordinator's address, and the key to it.
        number: Its own.
        place: The coordinator's working directory and the study's folder.
        threads: CPU threads of a trial.
        gpu: Whether it has one.
    """
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for folder in place:
        if not Path(folder).is_dir():
            return UserError(
                f"{socket.gethostname()} has no folder {folder}: all machines need it, shared, at the same path"
            )
    os.chdir(place[0])
    # Ray ignores and blocks it; it is how a study is stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        connection = Client(door[0], authkey=door[1])
    except OSError as error:
        return UserError(f"{socket.gethostname()} can't reach the sweep at {door[0][0]}, port {door[0][1]}: {error}")
    # A line that breaks is a coordinator that is gone.
    with contextlib.suppress(OSError, EOFError, KeyboardInterrupt), connection:
        connection.send(number)
        with Line(connection) as line:
            work(line, threads)
    return None


def _receive(listener: Listener, key: bytes, arrivals: "SimpleQueue[Worker]", closed: Event) -> None:
    """Opens to whoever knocks, until it is closed."""
    while True:
        try:
            connection = listener.accept()
        except OSError:
            if closed.is_set():
                return
            continue
        if closed.is_set():
            return
        # Each in a thread of its own: one who knocks and says nothing must not keep the others out.
        Thread(target=_let_in, args=(connection, key, arrivals), daemon=True).start()


def _let_in(connection: "Connection[Any, Any]", key: bytes, arrivals: "SimpleQueue[Worker]") -> None:
    """Lets in who knows the key."""
    try:
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        arrivals.put(Worker(connection.recv(), connection))
    except (AuthenticationError, OSError, EOFError):
        connection.close()


def _slots(room: tuple[int, float], threads: int, gpus: float) -> int:
    """Trials that a machine has room for at a time."""
    cores, devices = room
    if not gpus:
        return cores // threads
    # A fraction lies on one GPU, so that two thirds leave a third of each unused.
    by_gpu = int(devices) * int(1 / gpus + 1e-9) if gpus < 1 else int(devices // gpus)
    return min(cores // threads, by_gpu)
