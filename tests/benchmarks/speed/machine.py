"""The machine, the versions and the date of a measurement."""

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.speed.settings import Settings


def about(settings: Settings) -> dict[str, Any]:
    """Everything that the numbers depend on, including the load of the machine before the start."""
    libraries = ("torch", "torchvision", "lightning")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu(),
            "cores": cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "settings": {"device": settings.device, "rounds": settings.rounds, "quick": settings.quick},
    }


def cpu() -> str:
    """The processor's model."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
