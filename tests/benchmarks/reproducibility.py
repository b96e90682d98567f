"""Which of the machine's settings change the bits of a run: ``python -m tests.benchmarks.reproducibility``.

Trains 40 steps under each setting in a process of its own and compares the weights with those of two threads. The
instruction sets stand for other machines: PyTorch and oneDNN pick kernels by what the processor offers.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

CONFIGS = Path(__file__).parents[2] / "configs"
BASE = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
DIGITS = ["--config", str(BASE), "--trainer.max_steps", "40"]
CIFAR = ["--config", str(CONFIGS / "cifar10.yaml"), "--trainer.max_steps", "40", "--trainer.limit_val_batches", "1"]
SETTINGS: dict[str, dict[str, str]] = {
    "2 threads": {"OMP_NUM_THREADS": "2"},
    "2 threads again": {"OMP_NUM_THREADS": "2"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "1 thread again": {"OMP_NUM_THREADS": "1"},
    "4 threads": {"OMP_NUM_THREADS": "4"},
    "2 threads, PyTorch's kernels for AVX2": {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2"},
    "2 threads, oneDNN's kernels for AVX2": {"OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "2 threads, MKL's kernels for AVX2": {"OMP_NUM_THREADS": "2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


def weights(args: list[str], environment: dict[str, str]) -> torch.Tensor:
    """All weights of the run's last checkpoint, in one row."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "regularization", "fit", *args, "--trainer.accelerator", "cpu"]
        subprocess.run(command, cwd=folder, env=os.environ | environment, check=True, capture_output=True)
        (checkpoint,) = Path(folder).rglob("last.ckpt")
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return torch.cat([tensor.double().flatten() for tensor in state.values()])


def main() -> None:
    """Prints one line for each data set and setting."""
    for name, args in {"digits": DIGITS, "CIFAR-10": CIFAR}.items():
        expected = weights(args, SETTINGS["2 threads"])
        for setting, environment in SETTINGS.items():
            difference = (weights(args, environment) - expected).norm() / expected.norm()
            said = "same bits" if difference == 0 else f"relative difference {difference:.1e}"
            print(f"{name:9} {setting:40} {said}", flush=True)


if __name__ == "__main__":
    main()
