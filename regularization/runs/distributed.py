"""Ranks: the processes that train one network together, each with its number; the first one speaks and writes."""

import atexit
import os
import signal
import sys
import warnings
from datetime import timedelta
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
from regularization.internals.lightning import launcher_rank, reset_rank, set_sigterm_handler

# What the libraries say in a process whose partner is gone: gloo, its sockets, NCCL.
_LOST = (
    "connection closed by peer",
    "connection reset",
    "broken pipe",
    "connect() timed out",
    "nccl",
    "gloo",
    "tcpstore",
)
SECONDS = 5.0
# What torchrun tells its processes, and Lightning those that it starts.
_PLACE = (
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
    """Whether this is the first process, as far as its environment tells before there is a trainer."""
    return launcher_rank() == 0 and LightningEnvironment().node_rank() == 0


def is_first_rank_of_machine() -> bool:
    """Whether this is the first process of its machine, likewise."""
    return not any(int(os.environ.get(name, 0)) for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def launcher_devices() -> dict[str, int]:
    """The trainer's ``devices`` and ``num_nodes`` that torchrun or srun has started processes for; nothing without.

    Raises:
        UserError: When SLURM's machines have different numbers of processes.
    """
    if TorchElasticEnvironment.detect():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return {"devices": here, "num_nodes": int(os.environ["WORLD_SIZE"]) // here}
    tasks = _tasks()
    if tasks == 1 or not SLURMEnvironment.detect():
        return {}
    machines = int(os.environ["SLURM_STEP_NUM_NODES"])
    if tasks % machines:
        raise UserError(
            f"SLURM started {tasks} processes on {machines} machines: give --ntasks-per-node, the same on each"
        )
    return {"devices": tasks // machines, "num_nodes": machines}


def silence() -> None:
    """Keeps a process that is not the first of its run off the terminal: it would say everything once more.

    What it raises is still said.
    """
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    warnings.showwarning = lambda *_: None


def forget_launcher() -> None:
    """Forgets what a launcher has told of this process: what it trains from here on, it trains by itself."""
    told = [name for name in os.environ if name in _PLACE or name.startswith(("SLURM_", "TORCHELASTIC_"))]
    for name in told:
        del os.environ[name]
    reset_rank()


def _tasks() -> int:
    """How many processes srun has started with this one; a script of sbatch is none of them."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def check_strategy(trainer: Trainer) -> None:
    """Checks that several processes would train one network, and not each its own; they part before Python ends.

    Raises:
        UserError: When the strategy isn't DDP, or SLURM is to start processes and wasn't told to.
    """
    asked = trainer.num_devices * trainer.num_nodes
    slurm = isinstance(getattr(trainer.strategy, "cluster_environment", None), SLURMEnvironment)
    if slurm and not asked == trainer.world_size == _tasks():
        raise UserError(f"SLURM starts the {asked} processes: put srun in front of the command, with --ntasks={asked}")
    if trainer.world_size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy):
        name = type(trainer.strategy).__name__
        raise UserError(f"--trainer.strategy: on several devices it must be ddp, not {name}: weights must be whole")
    set_sigterm_handler(trainer, _end)
    atexit.register(_part)


def _end(number: int, _: Any) -> None:
    """Ends this process by the signal, as it would be without a handler; the others notice that it is gone."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _part() -> None:
    """Ends the threads of torch.distributed: one that still frees a tensor while Python ends aborts the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gather_rows(part: Tensor, trainer: Trainer) -> Tensor:
    """The rows of all processes, in their order; each may have another number of them."""
    part = part.to(trainer.strategy.root_device)
    return part if trainer.world_size == 1 else torch.cat(gather_all_tensors(part))


class RankConsensus:
    """What any of the processes wants, so that all of them do it, at the same step.

    Each says at every step what it wants, and learns with the next one what any of them wanted: the answer travels
    while the network computes. One process alone has it at once.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._asked: tuple[Tensor, torch.distributed.Work] | None = None

    def start(self, trainer: Trainer) -> None:
        """To be called by all processes, when they know each other."""
        if trainer.world_size > 1 and self._group is None:
            # Gloo works between processors: no GPU is waited for.
            self._group = torch.distributed.new_group(backend="gloo")

    def poll(self, *wishes: int) -> list[int]:
        """The highest of each of the ``wishes`` of the call before; of this one where there is one process."""
        answer = self._answer() if self._asked else [0] * len(wishes)
        if self._group is None:
            return list(wishes)
        asked = torch.tensor(wishes)
        work = torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX, self._group, async_op=True)
        self._asked = asked, work
        return answer

    def sync(self, *wishes: int) -> list[int]:
        """The highest of each of the ``wishes``, of this call and the one before; waits for it."""
        before = self.poll(*wishes)
        now = self._answer() if self._asked else list(wishes)
        return [max(pair) for pair in zip(before, now, strict=True)]

    def barrier(self) -> bool:
        """Whether all processes have come here, within five seconds."""
        if self._group is None:
            return True
        try:
            work = torch.distributed.barrier(self._group, async_op=True)
            work.wait(timedelta(seconds=SECONDS))
        except RuntimeError:
            return False
        return True

    def _answer(self) -> list[int]:
        assert self._asked is not None
        values, work = self._asked
        self._asked = None
        work.wait()
        return [int(value) for value in values]


def is_lost_peer(error: BaseException, trainer: Trainer) -> bool:
    """Whether ``error`` says that another process is gone."""
    said = str(error).lower()
    return trainer.world_size > 1 and (
        isinstance(error, torch.distributed.DistError) or any(sign in said for sign in _LOST)
    )
