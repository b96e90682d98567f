"""Which networks may lie in channels_last on a CPU."""

from torch import nn


def has_narrow_convolutions(network: nn.Module) -> bool:
    """Whether a convolution has fewer than 16 filters.

    In channels_last and with several threads, the CPU kernels of PyTorch 2.14 write past the memory of such ones.
    """
    return any(isinstance(module, nn.Conv2d) and module.out_channels < 16 for module in network.modules())
