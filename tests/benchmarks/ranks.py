"""What it costs to train one network in several processes: ``python -m tests.benchmarks.ranks``.

All processes run on the CPU of this computer with the gloo backend, one thread each. For 1, 2 and 4 processes, three
kinds of steps are timed in turn: DDP as configured by ``with/ddp.yaml``, plain DDP, and processes that do not
communicate. Beside them is the prediction of a formula from the speed of ``all_reduce`` alone: in a ring, 2·(W−1)/W·G
bytes pass through each process, with G the bytes of the gradient, and no communication overlaps with the computation.
"""

import json
import multiprocessing
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from regularization import ResNet, WhitenedNet

# The network and batch of configs/seed.yaml, and a quick task: (network, image size, images of the global batch).
TASKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "seed": (lambda: ResNet(10), 96, 64),
    "fast": (lambda: WhitenedNet(10, width=32), 32, 512),
}
STEPS, ROUNDS = 3, 3
processes = multiprocessing.get_context("spawn")


def median_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> float:
    """Seconds of a training step."""
    labels, times = torch.arange(len(images)) % 10, []
    for _ in range(STEPS):
        dist.barrier()
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(network(images), labels))
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ddp(network: nn.Module, look: bool) -> nn.Module:
    """The network in DDP, which averages gradients over processes; ``look``: whether to find unused parameters."""
    return DistributedDataParallel(network, find_unused_parameters=look)


def reduce_seconds(size: int) -> float:
    """Seconds of an ``all_reduce`` that adds up ``size`` numbers over all processes."""
    numbers, times = torch.ones(size), []
    for _ in range(2 * STEPS):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(numbers)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def work(rank: int, world: int, port: int, task: str, line: Connection) -> None:
    """Runs one process; rank 0 sends the results."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    make, side, batch = TASKS[task]
    torch.manual_seed(0)
    images = torch.randn(batch // world, 3, side, side).to(memory_format=torch.channels_last)
    alone, ours, plain = (make().to(memory_format=torch.channels_last) for _ in range(3))
    speaking = {"together": (ours, True), "plain": (plain, False)}
    networks = {"alone": alone} | {kind: ddp(network, look) for kind, (network, look) in speaking.items()}
    optimizers = {kind: torch.optim.SGD(one.parameters(), 0.01, 0.9) for kind, one in networks.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in networks}
    for kind in networks:
        median_step(networks[kind], optimizers[kind], images)
    for _ in range(ROUNDS):
        for kind, times in seconds.items():
            times.append(median_step(networks[kind], optimizers[kind], images))
    size = sum(w.numel() for w in alone.parameters())
    if rank == 0:
        line.send({kind: statistics.median(times) for kind, times in seconds.items()} | {"gradient": 4 * size})
    reduced = reduce_seconds(size)
    if rank == 0:
        line.send(reduced)
    dist.destroy_process_group()


def measure(world: int, task: str) -> dict[str, Any]:
    """The figures for ``world`` processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    ours, theirs = processes.Pipe()
    members = [processes.Process(target=work, args=(rank, world, port, task, theirs)) for rank in range(world)]
    for member in members:
        member.start()
    figures: dict[str, Any] = ours.recv() | {"task": task, "processes": world}
    figures["reduce"] = ours.recv()
    for member in members:
        member.join()
    batch = TASKS[task][2]
    figures["images_per_second"] = batch / figures["together"]
    figures["cost"] = figures["together"] - figures["alone"]
    figures["lost"] = figures["cost"] / figures["together"]
    figures["predicted"] = figures["reduce"] / (figures["reduce"] + figures["alone"])
    return figures


def main(args: list[str]) -> None:
    """Prints the table; ``--json FILE`` writes it too."""
    # Else DDP would warn in each process that it searched for unused parameters and found none.
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    found = [measure(world, task) for task in TASKS for world in (1, 2, 4)]
    print("task  processes     step    plain    alone     cost  images/s   lost predicted    all_reduce GB/s each")
    for one in found:
        world = one["processes"]
        speed = 2 * (world - 1) / world * one["gradient"] / one["reduce"] / 1e9
        times = " ".join(f"{1e3 * one[kind]:8.0f}" for kind in ("together", "plain", "alone", "cost"))
        shares = f"{one['images_per_second']:9.1f} {one['lost']:6.1%} {one['predicted']:9.1%}"
        print(f"{one['task']:5} {world:9} {times} {shares} {1e3 * one['reduce']:13.1f} {speed:9.2f}")
    if "--json" in args:
        with open(args[args.index("--json") + 1], "w") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main(sys.argv[1:])
