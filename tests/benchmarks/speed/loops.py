"""The loops that our training is compared with: the notebook's and a bare one; each needs its own process."""

import itertools
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from regularization import CIFAR10, ResNet
from regularization.training.memory import retain_freed_memory

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
Step = Callable[[Tensor, Tensor], None]


def now(device: str) -> float:
    """The clock in seconds, after the device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def notebook(steps: int, warm: int, device: str = "cpu", workers: int = 4) -> float:
    """Images/s of the seed's notebook: batches of 64 images of CIFAR-10 at 96×96, loading included.

    PIL images are resized, converted to tensors and normalized one by one in worker processes; the network is eager,
    fp32 and contiguous; the loss and the number of correct predictions are read at every step.
    """
    network = ResNet(norm_init="uniform").to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, weight_decay=1e-4)
    sums = [0.0, 0.0]

    def step(inputs: Tensor, labels: Tensor) -> None:
        inputs, labels = inputs.to(device), labels.to(device)
        output = network(inputs)
        loss = functional.cross_entropy(output, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sums[0] += loss.item()
        sums[1] += (output.argmax(1) == labels).sum().item() / len(labels)

    return 64 / _seconds_a_step(step, _notebook_batches(workers), steps, warm, device)


def bare(
    steps: int,
    warm: int,
    device: str = "cpu",
    batch_size: int = 64,
    memory_format: str = "channels_last",
    threads: int | None = None,
    compile_mode: str | None = None,
    bfloat16: bool = False,
) -> float:
    """Images/s of the same network at 96×96 with nothing but forward, cross-entropy, backward and step.

    The batches are prepared in advance on the device. Freed memory is kept, as ``fit`` does, so the result is what the
    machine can do. ``compile_mode`` is that of ``torch.compile``; None does not compile.
    """
    retain_freed_memory()
    torch.set_num_threads(threads or torch.get_num_threads())
    torch.backends.cudnn.benchmark = bfloat16  # as in configs/with/gpu.yaml
    layout = MEMORY_FORMATS[memory_format]
    step = _bare_step(device, layout, compile_mode, bfloat16)
    batches = _random_batches(device, layout, batch_size)
    return batch_size / _seconds_a_step(step, batches, steps, warm, device)


def _bare_step(device: str, layout: torch.memory_format, compile_mode: str | None, bfloat16: bool) -> Step:
    network: nn.Module = ResNet(norm_init="uniform").to(device, memory_format=layout)  # type: ignore[call-overload]
    if compile_mode is not None:
        network.compile(mode=compile_mode, dynamic=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, weight_decay=1e-4)

    def step(inputs: Tensor, labels: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _random_batches(device: str, layout: torch.memory_format, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Four random batches, repeated without end."""
    inputs = torch.randn(4, batch_size, 3, 96, 96, device=device)
    labels = torch.randint(10, (4, batch_size), device=device)
    return itertools.cycle(
        [(one.contiguous(memory_format=layout), two) for one, two in zip(inputs, labels, strict=True)]
    )


def _notebook_batches(workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The notebook's batches, epoch after epoch."""
    data = CIFAR10()
    data.prepare_data()
    normalize = transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    transform = transforms.Compose([transforms.Resize(96), transforms.ToTensor(), normalize])
    images = datasets.CIFAR10(str(data.root), train=True, transform=transform)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(images, 64, shuffle=True, num_workers=workers)
    while True:
        yield from loader


def _seconds_a_step(step: Step, batches: Iterator[tuple[Tensor, Tensor]], steps: int, warm: int, device: str) -> float:
    """The mean over ``steps`` steps, data loading included, after ``warm`` others."""
    for inputs, labels in itertools.islice(batches, warm):
        step(inputs, labels)
    start = now(device)
    for inputs, labels in itertools.islice(batches, steps):
        step(inputs, labels)
    return (now(device) - start) / steps
