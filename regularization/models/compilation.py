"""How PyTorch computes a network: the memory layout of its images and kernels, and the compiler."""

import os
import shutil
import sys
from typing import Literal

import torch
from lightning import Trainer
from torch import nn

from regularization.errors import UserError

MemoryFormat = Literal["channels_last", "contiguous"]


def memory_layout(network: nn.Module, memory_format: MemoryFormat) -> torch.memory_format:
    """The layout that ``network`` is given: channels_last only where all convolutions have at least 16 filters."""
    # In channels_last and with several threads, the CPU kernels of PyTorch 2.14 write past the memory of convolutions
    # with fewer than 16 filters.
    narrow = any(isinstance(module, nn.Conv2d) and module.out_channels < 16 for module in network.modules())
    return torch.contiguous_format if memory_format == "contiguous" or narrow else torch.channels_last


def check_compiler(trainer: Trainer) -> None:
    """Checks that there is what PyTorch compiles with.

    Raises:
        UserError: If the network is on the CPU, and there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if trainer.strategy.root_device.type == "cpu" and sys.platform != "win32" and shutil.which(compiler) is None:
        raise UserError(
            f"--model.compile needs a C++ compiler on the CPU, and there is no {compiler}: install one, or leave it out"
        )
