"""Distributed training: the rank of this process, the launchers, and requests on which all processes act together."""

import atexit
import os
import signal
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from regularization.errors import UserError
from regularization.internals.lightning import forbid_requeue, launcher_rank, reset_rank, set_sigterm_handler

# Substrings, in lower case, of the errors of gloo, its sockets and NCCL after another process has ended.
_LOST_PEER_ERRORS = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "connect() timed out",
    "nccl",
    "gloo",
    "tcpstore",
)
# Timeout of a barrier in seconds: a process that has not reached it by then has ended or hangs.
BARRIER_TIMEOUT = 5.0
# Environment variables that torchrun sets for its processes, and Lightning for those that it starts.
_LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def is_first_rank() -> bool:
    """Whether this is the first process of the run, according to the environment; works before there is a Trainer."""
    return launcher_rank() == 0 and LightningEnvironment().node_rank() == 0


def is_first_rank_of_machine() -> bool:
    """Whether this is the first process of its machine, according to the environment."""
    return not any(int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def launcher_devices() -> dict[str, int]:
    """The Trainer's ``devices`` and ``num_nodes`` for the processes of torchrun or srun; empty without a launcher.

    Raises:
        UserError: When SLURM started different numbers of processes on the machines.
    """
    if TorchElasticEnvironment.detect():
        local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
        return {"devices": local_world_size, "num_nodes": int(os.environ["WORLD_SIZE"]) // local_world_size}
    tasks = _srun_tasks()
    if tasks == 1 or not SLURMEnvironment.detect():
        return {}
    machines = int(os.environ["SLURM_STEP_NUM_NODES"])
    if tasks % machines:
        raise UserError(
            f"SLURM started {tasks} processes on {machines} machines: "
            "give --ntasks-per-node, so that each machine has the same number"
        )
    return {"devices": tasks // machines, "num_nodes": machines}


def silence() -> None:
    """Suppresses the output and the warnings of a process that is not the first one, which would repeat them.

    Errors are still printed.
    """
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    warnings.showwarning = lambda *_: None


def forget_launcher() -> None:
    """Removes what a launcher has set in the environment, so that this process trains by itself from here on."""
    for name in list(os.environ):
        if name in _LAUNCHER_VARIABLES or name.startswith(("SLURM_", "TORCHELASTIC_")):
            del os.environ[name]
    reset_rank()


def _srun_tasks() -> int:
    """The number of processes that srun started together; 1 for a script of sbatch, which srun did not start."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def check_strategy(trainer: Trainer) -> None:
    """Checks the launcher and the strategy of distributed training, and registers handlers for SIGTERM and exit.

    Raises:
        UserError: When the strategy is not DDP, nothing has started the processes of SLURM or of several machines, or
            Lightning would continue from a checkpoint that another program has left.
    """
    forbid_requeue(trainer)
    left = sorted(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt")) if SLURMEnvironment.detect() else []
    if left:
        raise UserError(f"on SLURM, Lightning would start from {left[0]}: move it to another folder")
    processes = trainer.num_devices * trainer.num_nodes
    slurm = isinstance(getattr(trainer.strategy, "cluster_environment", None), SLURMEnvironment)
    if slurm and not processes == trainer.world_size == _srun_tasks():
        raise UserError(
            f"SLURM must start the {processes} processes: put srun in front of the command, with --ntasks={processes}"
        )
    by_itself = isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)
    if trainer.num_nodes > 1 and by_itself and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise UserError(
            f"--trainer.num_nodes {trainer.num_nodes}: start the program on each machine by torchrun or srun, "
            "which say where the others are (or set MASTER_ADDR, MASTER_PORT and NODE_RANK)"
        )
    if trainer.world_size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy):
        name = type(trainer.strategy).__name__
        raise UserError(
            f"--trainer.strategy: with several devices it must be ddp, not {name}: each process needs all weights"
        )
    set_sigterm_handler(trainer, _die_by_signal)
    atexit.register(_destroy_process_group)


def _die_by_signal(number: int, _: Any) -> None:
    """Ends this process with the signal's default action; the other processes then detect the lost connection."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _destroy_process_group() -> None:
    """Ends the threads of torch.distributed: one that frees a tensor while Python exits aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gather_rows(part: Tensor, trainer: Trainer) -> Tensor:
    """Concatenates the rows of all processes in the order of ranks; their numbers of rows may differ."""
    part = part.to(trainer.strategy.root_device)
    return part if trainer.world_size == 1 else torch.cat(gather_all_tensors(part))


class RankConsensus:
    """Makes all processes act on the request of any of them, at the same step.

    At every step, each process passes its requests and receives those of the previous step, combined over all
    processes, so that communication overlaps with computation. A single process gets its own requests immediately.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._pending: tuple[Tensor, torch.distributed.Work] | None = None

    def start(self, trainer: Trainer) -> None:
        """Creates the process group; all processes must call it, after the trainer has connected them."""
        if trainer.world_size > 1 and self._group is None:
            # Gloo communicates between CPUs, without waiting for a GPU.
            self._group = torch.distributed.new_group(backend="gloo")

    def poll(self, *requests: int) -> list[int]:
        """The maximum of each request over all processes in the previous call; with one process, in this call."""
        result = self._wait() if self._pending else [0] * len(requests)
        if self._group is None:
            return list(requests)
        values = torch.tensor(requests)
        work = torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, self._group, async_op=True)
        self._pending = values, work
        return result

    def sync(self, *requests: int) -> list[int]:
        """The maximum of each request over all processes, from this call and the previous one; waits for the result."""
        previous = self.poll(*requests)
        current = self._wait() if self._pending else list(requests)
        return [max(pair) for pair in zip(previous, current, strict=True)]

    def barrier(self) -> bool:
        """Whether all processes have called it within ``BARRIER_TIMEOUT``; waits for them."""
        if self._group is None:
            return True
        try:
            work = torch.distributed.barrier(self._group, async_op=True)
            work.wait(timedelta(seconds=BARRIER_TIMEOUT))
        except RuntimeError:
            return False
        return True

    def _wait(self) -> list[int]:
        assert self._pending is not None
        values, work = self._pending
        self._pending = None
        work.wait()
        return [int(value) for value in values]


def is_lost_peer(error: BaseException, trainer: Trainer) -> bool:
    """Whether ``error`` says that another process of the run has ended."""
    message = str(error).lower()
    return trainer.world_size > 1 and (
        isinstance(error, torch.distributed.DistError) or any(part in message for part in _LOST_PEER_ERRORS)
    )
