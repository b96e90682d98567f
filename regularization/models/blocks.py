"""The residual blocks of the networks, with the noise that regularizes them."""

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth, drop_block2d

from regularization.errors import UserError

# Side of the squares that DropBlock drops. The last feature maps have 3×3 to 16×16 pixels.
_SQUARE = 3


class DropSquares(nn.Module):
    """DropBlock: drops squares of 3×3 in the feature maps, or single values if the maps are smaller than 3×3.

    Ghiasi et al. 2018 (arXiv:1810.12890). The values that remain are scaled up, so that their mean stays the same.

    Attributes:
        p: Probability of dropping a value; 0 drops none.
    """

    p = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Drops squares of ``x``, ``(B, channels, H, W)``, in training."""
        side = _SQUARE if min(x.shape[-2:]) >= _SQUARE else 1
        output: Tensor = drop_block2d(x, self.p, side, training=self.training)
        return output


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters are standardized: each has mean 0 and variance 1/fan_in when it is applied.

    Weight standardization, Qiao et al. 2019 (arXiv:1903.10520), scaled so that the layer preserves the variance of its
    input on average. The output does not depend on the scale of a filter, so weight decay acts as under a norm layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``, with (w − mean(w)) / (std(w)·√fan_in) instead of w."""
        dims = (1, 2, 3)
        fan_in = self.weight[0].numel()
        variance, mean = torch.var_mean(self.weight, dims, correction=0, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(fan_in * variance + 1e-10)
        output: Tensor = nn.functional.conv2d(
            x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        return output


class SeedBlock(nn.Module):
    """The seed's residual block: ReLU(x' + ReLU(norm(conv(ReLU(norm(conv(x)))))).

    x' is x, or a 1×1 convolution of x if the shape changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, conv: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            conv(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        same = in_channels == channels and stride == 1
        self.shortcut = nn.Identity() if same else conv(in_channels, channels, 1, stride)
        self.drop = StochasticDepth(0.0, mode="row")
        self.drop_squares = DropSquares()

    @classmethod
    def pair(
        cls, in_channels: int, channels: int, stride: int, conv: type[nn.Conv2d] = nn.Conv2d
    ) -> tuple["SeedBlock", "SeedBlock"]:
        """One stage: the first block changes the shape, the second one keeps it."""
        return cls(in_channels, channels, stride, conv), cls(channels, channels, 1, conv)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, channels, ⌈H/stride⌉, ⌈W/stride⌉)``."""
        total = nn.functional.relu(self.drop(self.branch(x)) + self.shortcut(x))
        output: Tensor = self.drop_squares(total)
        return output


class PreactivationBlock(nn.Module):
    """A pre-activation residual block: x' + conv(ReLU(norm(conv(ReLU(norm(x)))))).

    x' is x, or a strided 1×1 convolution of ReLU(norm(x)) if the shape changes.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, conv: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(
            conv(in_channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            conv(channels, channels, 3, padding=1, bias=False),
        )
        same = in_channels == channels and stride == 1
        self.shortcut = None if same else conv(in_channels, channels, 1, stride, bias=False)
        self.drop = StochasticDepth(0.0, mode="row")
        self.drop_squares = DropSquares()

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, channels, ⌈H/stride⌉, ⌈W/stride⌉)``."""
        activated = self.activate(x)
        identity: Tensor = x if self.shortcut is None else self.shortcut(activated)
        total: Tensor = self.drop_squares(identity + self.drop(self.branch(activated)))
        return total


def set_noise(blocks: nn.Sequential, stochastic_depth: float, drop_block: float) -> None:
    """Sets the drop probabilities: of branches, growing with depth, and of squares in the second half of the blocks.

    Raises:
        UserError: If a probability is not in [0, 1).
    """
    for name, probability in (("stochastic_depth", stochastic_depth), ("drop_block", drop_block)):
        if not 0 <= probability < 1:
            raise UserError(f"model.network: {name} must be at least 0 and below 1, not {probability}")
    for depth, block in enumerate(blocks, start=1):
        assert isinstance(block, SeedBlock | PreactivationBlock)
        block.drop.p = stochastic_depth * depth / len(blocks)
        block.drop_squares.p = drop_block if 2 * depth > len(blocks) else 0.0
