"""How PyTorch computes a network: the memory layout of its images and kernels, the precision, and the compiler."""

import os
import shutil
import sys
from typing import Literal

import torch
from lightning import Trainer
from torch import nn

from regularization.errors import UserError

# The minimum number of filters with which a convolution is fast in channels_last and in bfloat16.
WIDE = 16
MemoryFormat = Literal["channels_last", "contiguous"]


def memory_layout(network: nn.Module, memory_format: MemoryFormat) -> torch.memory_format:
    """The memory layout for ``network``: channels_last only if all convolutions have at least 16 filters."""
    # In channels_last and with several threads, the CPU kernels of PyTorch 2.14 write past the memory of convolutions
    # with fewer than 16 filters.
    is_narrow = any(number < WIDE for number in _filters(network))
    return torch.contiguous_format if memory_format == "contiguous" or is_narrow else torch.channels_last


def _filters(network: nn.Module) -> list[int]:
    """The number of filters of each convolution."""
    return [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]


def bfloat16_instructions() -> bool | None:
    """Whether this CPU has bfloat16 instructions (AVX-512 BF16 or AMX); None if PyTorch can't tell."""
    # PyTorch 2.9 does not have this function.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    known = [capabilities[name] for name in ("avx512_bf16", "amx_bf16") if name in capabilities]
    return any(known) if known else None


def precision_advice(trainer: Trainer, network: nn.Module) -> str | None:
    """A sentence about a precision that would be faster on this CPU; None if there is none (docs/performance.md)."""
    has_instructions = bfloat16_instructions()
    if trainer.strategy.root_device.type != "cpu" or has_instructions is None:
        return None
    if trainer.precision in ("bf16-mixed", "bf16-true") and not has_instructions:
        return f"this CPU has no bfloat16 instructions: precision {trainer.precision} is slower than 32-true"
    # Convolutions with few filters gain little or nothing.
    if trainer.precision == "32-true" and has_instructions and min(_filters(network), default=0) >= WIDE:
        option = "--trainer.precision bf16-mixed"
        return f"this CPU has bfloat16 instructions: with {option}, a step may take only 65% of the time"
    return None


def check_compiler(trainer: Trainer) -> None:
    """Checks that the compiler that PyTorch needs is installed.

    Raises:
        UserError: If the network is on the CPU, and there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if trainer.strategy.root_device.type == "cpu" and sys.platform != "win32" and shutil.which(compiler) is None:
        raise UserError(
            f"--model.compile needs a C++ compiler on the CPU, and there is no {compiler}: install one, or leave it out"
        )
