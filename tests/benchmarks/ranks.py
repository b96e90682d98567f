"""What it costs to train one network in several processes: ``python -m tests.benchmarks.ranks``.

On this computer's CPU, by gloo, one thread a process. For 1, 2 and 4 processes: the step of DDP as ``with/ddp.yaml``
asks for it, that of plain DDP, and the same step of processes that don't speak to each other, in turn. Beside them what
a formula gives from the speed of ``all_reduce`` alone, a ring's 2·(W−1)/W·G bytes through each process, G the bytes of
the gradient, none of it hidden behind the computation.
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

# The seed's network and batch, and a quick one: (network, image size, images of the global batch).
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
    """The network with gradients that are means over processes; whether to look for parameters without one."""
    return DistributedDataParallel(network, find_unused_parameters=look)


def reduce_seconds(size: int) -> float:
    """Seconds in which as many numbers are added up over all processes."""
    numbers, times = torch.ones(size), []
    for _ in range(2 * STEPS):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(numbers)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def work(rank: int, world: int, port: int, task: str, line: Connection) -> None:
    """One process; the first one reports."""
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
    """The figures of so many processes."""
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
    # DDP would say in each process that it looks for parameters without a gradient, and finds none.
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
