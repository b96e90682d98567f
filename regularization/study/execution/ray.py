"""Runs trials as tasks of a Ray cluster, on CPU cores or a share of a GPU. Requires the extra ``ray``."""

import logging
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from regularization.errors import UserError
from regularization.study.config import Trial
from regularization.study.execution.trial_process import run_trial

# Environment variables that are passed on to trials: the folders of data sets, and the path on which Python finds this
# package if it is not installed.
ENVIRONMENT = ("CIFAR10_ROOT", "CIFAR100_ROOT", "PYTHONPATH")
# Seconds after which ``ray status`` gives up; by default it tries for a minute.
STATUS_TIMEOUT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}


class RayExecutor:
    """Runs trials as tasks of a Ray cluster.

    Args:
        address: Address of the cluster's head, ``host:port``, or ``auto`` for the cluster of this machine.
        workers: Number of trials at a time; None for as many as the cluster has room for.
        threads: Number of CPU threads, and thus of cores, of each trial.
        gpus: Number of GPUs of each trial, a fraction to share one; None for one GPU if the cluster has any.

    Raises:
        UserError: When there is no such cluster, or no machine of it has room for a trial.
    """

    # The coordinator retries, because Ray itself would retry forever if workers are killed for lack of memory.
    attempts = 3

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
        self._task = self._ray.remote(run_task).options(num_cpus=threads, num_gpus=self._gpus, max_retries=0)

    @contextmanager
    def started(self, trial: Trial, record: optuna.Trial | None) -> Iterator["RayTask"]:
        """Submits the trial as a task; see ``Executor``."""
        where = (str(Path.cwd()), str(trial.folder.parent.resolve()))
        arguments = (trial, pickle.dumps(record), self._threads, bool(self._gpus), where)
        yield RayTask(self._ray, self._task.remote(*arguments))

    def close(self) -> None:
        """Disconnects from the cluster, which ends the tasks that still run."""
        self._ray.shutdown()


class RayTask:
    """The task of a trial; see ``TrialProcess``.

    Args:
        ray: The module.
        task: The reference to the task.
    """

    def __init__(self, ray: Any, task: Any) -> None:
        self._ray = ray
        self._task = task
        self._abandoned = False

    def wait(self, seconds: float) -> bool:
        """Waits until the task has ended; returns whether it has."""
        return self._abandoned or bool(self._ray.wait([self._task], timeout=seconds)[0])

    def terminate(self) -> None:
        """Interrupts the task, as Ctrl-C does."""
        self._ray.cancel(self._task)

    def kill(self) -> None:
        """Abandons the task, which ends when the executor closes: Ray's forced cancellation may abort this process."""
        self._abandoned = True

    def cause(self) -> str:
        """The error with which the task ended."""
        try:
            return str(self._ray.get(self._task))
        except self._ray.exceptions.RayError as error:
            # The message of an error in the task itself contains a traceback, unlike the message of its cause.
            original = getattr(error, "cause", error)
            text = next(iter(str(original).strip().splitlines()), "")
            return f"its task ended by {type(original).__name__}: {text}"


def run_task(trial: Trial, record: bytes, threads: int, gpu: bool, where: tuple[str, str]) -> str:
    """The Ray task: runs the trial on the machine that Ray has chosen.

    Args:
        trial: The trial.
        record: The Optuna trial, pickled; it opens the storage on the machine that unpickles it.
        threads: CPU threads.
        gpu: Whether the task has a GPU.
        where: The coordinator's working directory, and the folder of the trial's arm.

    Returns:
        Why there is no result, if the run folder does not say so.
    """
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for folder in where:
        if not Path(folder).is_dir():
            return f"{platform.node()} has no folder {folder}: all machines need it, shared, at the same path"
    os.chdir(where[0])
    try:
        run_trial(trial, pickle.loads(record), threads)
    except (KeyboardInterrupt, SystemExit) as error:
        # Only the task ends: the worker process runs other trials, too.
        return f"it ended by {type(error).__name__} {error}"
    return "it ended without a result"


def _connect(address: str) -> Any:
    """Connects to the cluster; returns the module ``ray``.

    Raises:
        UserError: When Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray: pip install 'regularization[ray]'") from error
    if address != "auto":
        _check_address(address)
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


def _check_address(address: str) -> None:
    """Checks that a head runs at ``host:port``, because ``ray.init`` would try for minutes."""
    host, _, port = address.rpartition(":")
    if address.startswith("ray://") or not host or not port.isdigit():
        raise UserError(
            f"--ray {address}: must be the head's host:port, such as 10.0.0.5:6379, or auto,\n"
            "and the sweep must be started on a machine of the cluster"
        )
    words = [sys.executable, "-m", "ray.scripts.scripts", "status", f"--address={address}"]
    if subprocess.run(words, env=os.environ | STATUS_TIMEOUT, capture_output=True).returncode:
        raise UserError(f"--ray {address}: nobody answers there.\nA head is started by: ray start --head")


def _shares(devices: float, gpus: float) -> int:
    """Number of trials for which the GPUs of a machine have room at a time."""
    if not gpus:
        return sys.maxsize
    # A fraction is allocated on a single GPU: with two thirds per trial, a third of each GPU stays unused.
    return int(devices) * int(1 / gpus + 1e-9) if gpus < 1 else int(devices // gpus)
