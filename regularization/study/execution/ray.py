"""Trials on a Ray cluster, the extra ``ray``: each is a task, on cores or a share of a GPU of some machine."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from regularization.errors import UserError
from regularization.study.config import Trial
from regularization.study.execution.executor import End, Epoch, TrialDied, TrialStopped
from regularization.study.execution.trial_process import run_trial

# What a trial reads from its environment, and what finds this program where it is not installed.
ENVIRONMENT = ("CIFAR10_ROOT", "CIFAR100_ROOT", "PYTHONPATH")
RETRIES = 2
# Seconds between two looks into the mailbox.
POLL = 0.2


class Mailbox:
    """An actor on the coordinator's machine: what trials report, whether each continues, and whether all must stop."""

    def __init__(self) -> None:
        self._epochs: dict[str, list[Epoch]] = {}
        self._train_on: dict[tuple[str, int], bool] = {}
        self._starts: dict[str, int] = {}
        self._stop = False

    def start(self, run: str) -> int:
        """How often this trial has been started, this time included."""
        self._starts[run] = self._starts.get(run, 0) + 1
        return self._starts[run]

    def report(self, run: str, epoch: Epoch) -> None:
        """Called by a trial."""
        self._epochs.setdefault(run, []).append(epoch)

    def take(self, run: str) -> list[Epoch]:
        """What a trial has reported since the last call."""
        return self._epochs.pop(run, [])

    def answer(self, run: str, epoch: Epoch, train_on: bool) -> None:
        """Tells a trial whether to continue after an epoch."""
        self._train_on[run, epoch.number] = train_on

    def answered(self, run: str, epoch: Epoch) -> bool | None:
        """The answer, None before there is one."""
        return self._train_on.get((run, epoch.number))

    def stop(self) -> None:
        """Sets the flag that trials look at."""
        self._stop = True

    def stopped(self) -> bool:
        """The flag."""
        return self._stop


class RayExecutor:
    """Tasks of a Ray cluster. Ray runs one whose worker died again elsewhere: it resumes from its checkpoint.

    Args:
        address: Of the cluster's head, ``host:port``, or ``auto`` for the one of this machine.
        workers: Trials at a time; None for as many as there is room for.
        threads: CPU threads, and so cores, of each.
        gpus: GPUs of each, a fraction to share one; None for one where the cluster has any.

    Raises:
        UserError: When there is no such cluster, or no machine of it has room for a trial.
    """

    # Ray makes the others.
    attempts = 1

    def __init__(self, address: str, workers: int | None, threads: int, gpus: float | None) -> None:
        self._ray = _connect(address)
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        sizes = [(int(machine.get("CPU", 0)), float(machine.get("GPU", 0))) for machine in machines]
        self._gpus = float(any(devices for _, devices in sizes)) if gpus is None else gpus
        self._threads = threads
        room = sum(min(cores // threads, _shares(devices, self._gpus)) for cores, devices in sizes)
        if not room:
            self.close()
            has = ", ".join(f"{cores} cores and {devices:g} GPUs" for cores, devices in sizes)
            wanted = f"{threads} cores (--threads) and {self._gpus:g} GPUs (--gpus)"
            raise UserError(f"no machine of the cluster has room for a trial with {wanted};\nthey have: {has}")
        self.workers = workers or room
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        self._mailbox = self._ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        options = {"num_cpus": threads, "num_gpus": self._gpus, "max_retries": RETRIES}
        self._task = self._ray.remote(run_task).options(**options)
        self._stopping = False

    def run(self, trial: Trial, interactive: bool) -> Generator[Epoch, None, None]:
        """Runs the trial as a task; see ``Executor``."""
        run = str(trial.folder)
        where = (str(Path.cwd()), str(trial.folder.parent.resolve()))
        task = self._task.remote(trial, self._mailbox, interactive, self._threads, bool(self._gpus), where)
        train_on, ended = True, False
        try:
            while not ended:
                ended = bool(self._ray.wait([task], timeout=POLL)[0])
                for epoch in self._ray.get(self._mailbox.take.remote(run)):
                    if train_on:
                        try:
                            yield epoch
                        except GeneratorExit:
                            train_on = False
                    self._mailbox.answer.remote(run, epoch, train_on)
            end = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            if self._stopping:
                raise TrialStopped from error
            cause = next(iter(str(error).strip().splitlines()), "")
            raise TrialDied(f"it has cost {RETRIES + 1} workers; {type(error).__name__}: {cause}") from error
        if train_on:
            end.check()

    def stop(self) -> None:
        """Sets the flag that trials look at."""
        self._stopping = True
        self._mailbox.stop.remote()

    def kill(self) -> None:
        """Takes the mailbox away: a trial without one ends at once."""
        self._ray.kill(self._mailbox)

    def close(self) -> None:
        """Leaves the cluster."""
        self._ray.shutdown()


def run_task(trial: Trial, mailbox: Any, interactive: bool, threads: int, gpu: bool, where: tuple[str, str]) -> End:
    """The task: runs the trial on whatever machine it is.

    Args:
        trial: The trial.
        mailbox: The actor beside the coordinator.
        interactive: As for ``Executor.run``.
        threads: CPU threads.
        gpu: Whether it has one.
        where: The coordinator's working directory, and the folder of the trial's arm.
    """
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for folder in where:
        if not Path(folder).is_dir():
            machine = socket.gethostname()
            return End(reason=f"{machine} has no folder {folder}: all machines need it, shared, at the same path")
    os.chdir(where[0])
    import ray

    # Ray counts no attempt whose worker was killed for want of memory.
    if ray.get(mailbox.start.remote(str(trial.folder))) > RETRIES + 1:
        return End(reason=f"it has cost {RETRIES + 1} workers")
    return run_trial(trial, MailboxControl(mailbox, str(trial.folder), interactive), threads)


class MailboxControl:
    """The trial's end of the connection to its coordinator; see ``Control``."""

    def __init__(self, mailbox: Any, run: str, interactive: bool) -> None:
        import ray

        self._ray = ray
        self._mailbox = mailbox
        self._run = run
        self._interactive = interactive
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def stop_requested(self) -> bool:
        """Reads what the thread has heard."""
        return self._stop.is_set()

    def report(self, epoch: Epoch) -> bool:
        """Waits for the answer where the run is interactive."""
        self._mailbox.report.remote(self._run, epoch)
        while self._interactive and not self._stop.is_set():
            if (train_on := self._ray.get(self._mailbox.answered.remote(self._run, epoch))) is not None:
                return bool(train_on)
            time.sleep(POLL / 10)
        return True

    def _watch(self) -> None:
        """Looks at the flag; without a mailbox there is no coordinator to work for."""
        try:
            while not self._ray.get(self._mailbox.stopped.remote()):
                time.sleep(POLL)
            self._stop.set()
        except self._ray.exceptions.RayError:
            os._exit(1)


def _connect(address: str) -> Any:
    """Connects to the cluster; returns the module ``ray``.

    Raises:
        UserError: When Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise UserError("--ray: pip install 'regularization[ray]'") from error
    if address != "auto":
        _probe(address, ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    passed = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, runtime_env={"env_vars": passed}, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"--ray {address}: no cluster can be used from this machine: {message[:300]}") from error
    finally:
        if in_main:  # Ray puts its own handler there
            signal.signal(signal.SIGTERM, before)
    return ray


def _probe(address: str, here: str) -> None:
    """Checks that something listens at ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        raise UserError(
            f"--ray {address}: must be the head's host:port, such as 10.0.0.5:6379, or auto,\n"
            "and the sweep must be started on a machine of the cluster"
        )
    try:
        # What Ray makes of this machine's own names.
        socket.create_connection((here if host in ("localhost", "127.0.0.1") else host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray {address}: nobody answers there ({error}).\nA head is started by: ray start --head"
        ) from error


def _shares(devices: float, gpus: float) -> int:
    """Trials that the GPUs of a machine have room for at a time."""
    if not gpus:
        return sys.maxsize
    # A fraction lies on one GPU, so that two thirds leave a third of each unused.
    return int(devices) * int(1 / gpus + 1e-9) if gpus < 1 else int(devices // gpus)
