"""The networks of this package: the seed's ResNet, a small one and a fast one. Configs may name any other class."""

from typing import Literal

import torch
from torch import Tensor, nn

from regularization.errors import UserError
from regularization.models.blocks import PreactivationBlock, SeedBlock, StandardizedConv2d, set_noise

NormInit = Literal["ones", "uniform"]


class ResNet(nn.Module):
    """The seed's residual network: logits ``(B, num_classes)`` of images ``(B, 3, H, W)``, H and W at least 32.

    On 96×96 images the shapes are stem (64, 45, 45), pool (64, 22, 22), then pairs of residual blocks with 64 (22×22),
    128 (11×11), 256 (6×6) and 512 (3×3) channels, followed by global average pooling and a linear layer: 11,180,682
    parameters in 58 tensors for 10 classes. It derives from ResNet-18 (He et al. 2015, arXiv:1512.03385) with the
    differences of the seed: a stem with bias but without norm or padding, shortcuts with bias, and a ReLU at the end of
    each branch, before the addition.

    Args:
        num_classes: Number of logits.
        norm_init: Initialization of the batch-norm scales γ: ``ones``, or ``uniform`` on (0, 1) as in PyTorch until
            2018, when the seed was trained.
        dropout: Probability of dropping a feature before the last layer during training.
        stochastic_depth: Probability of dropping the branch of the last block, per image, during training. Over the
            blocks, it grows from 0 in proportion to depth (Huang et al. 2016, arXiv:1603.09382).
        drop_block: Probability of dropping a value of the feature maps during training, in squares of 3×3, after each
            of the second half of the blocks (Ghiasi et al. 2018, arXiv:1810.12890).
        standardize_weights: Whether each filter is standardized before it is applied, see ``StandardizedConv2d``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        norm_init: NormInit = "ones",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        drop_block: float = 0.0,
        standardize_weights: bool = False,
    ) -> None:
        super().__init__()
        conv = StandardizedConv2d if standardize_weights else nn.Conv2d
        self.stem = nn.Sequential(conv(3, 64, 7, stride=2), nn.MaxPool2d(3, stride=2))
        self.stages = nn.Sequential(
            *SeedBlock.pair(64, 64, stride=1, conv=conv),
            *SeedBlock.pair(64, 128, stride=2, conv=conv),
            *SeedBlock.pair(128, 256, stride=2, conv=conv),
            *SeedBlock.pair(256, 512, stride=2, conv=conv),
        )
        # A global mean; the seed averaged 3×3. This gives the same for 96×96 images, and is defined from 32×32 up.
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(512, num_classes)
        _init_norms(self, norm_init)
        set_noise(self.stages, stochastic_depth, drop_block)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalized float images ``(B, 3, H, W)``."""
        features = self.pool(self.stages(self.stem(images))).flatten(1)
        logits: Tensor = self.head(self.dropout(features))
        return logits


class SmallResNet(nn.Module):
    """A residual network for small images: logits ``(B, num_classes)`` of images ``(B, 3, H, W)``, H and W at least 4.

    It has a 3×3 stem, three stages of one pre-activation block each (He et al. 2016, arXiv:1603.05027), with ``width``,
    2·``width`` and 4·``width`` channels at full, half and quarter resolution, global average pooling and a linear
    layer. With ``width`` 32 on 32×32 images it has 0.31 million parameters and takes 0.29 GFLOP per image, forward and
    backward: a sixth of the seed's network on 96×96.

    Args:
        num_classes: Number of logits.
        width: Channels of the first stage.
        norm_init: Initialization of the batch-norm scales γ, see ``ResNet``.
        dropout: Probability of dropping a feature before the last layer, see ``ResNet``.
        stochastic_depth: Probability of dropping the branch of the last block, see ``ResNet``.
        drop_block: Probability of dropping a value of the feature maps in squares of 3×3, see ``ResNet``.
        standardize_weights: Whether each filter is standardized before it is applied, see ``ResNet``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 32,
        norm_init: NormInit = "ones",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        drop_block: float = 0.0,
        standardize_weights: bool = False,
    ) -> None:
        super().__init__()
        conv = StandardizedConv2d if standardize_weights else nn.Conv2d
        self.stem = conv(3, width, 3, padding=1, bias=False)
        self.stages = nn.Sequential(
            PreactivationBlock(width, width, stride=1, conv=conv),
            PreactivationBlock(width, 2 * width, stride=2, conv=conv),
            PreactivationBlock(2 * width, 4 * width, stride=2, conv=conv),
        )
        self.norm = nn.BatchNorm2d(4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, num_classes)
        _init_norms(self, norm_init)
        set_noise(self.stages, stochastic_depth, drop_block)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalized float images ``(B, 3, H, W)``."""
        features = nn.functional.relu(self.norm(self.stages(self.stem(images))))
        logits: Tensor = self.head(self.dropout(self.pool(features).flatten(1)))
        return logits


class WhitenedNet(nn.Module):
    """A network that learns in few epochs: logits ``(B, num_classes)`` of images ``(B, 3, H, W)``, H and W at least 9.

    It has a fixed 2×2 whitening layer, three stages of ``width``, 4·``width`` and 4·``width`` channels that each halve
    the resolution, global max pooling and a linear layer. The image size may change during training. An image takes
    0.10 GFLOP, forward and backward, with ``width`` 32 on 24×24, and 0.71 GFLOP with ``width`` 64 on 32×32.

    The layers follow Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv:2404.00498). The whitening
    is by David Page ("How to train your ResNet", part 8).

    Args:
        num_classes: Number of logits.
        width: Channels of the first stage.
        mirror: Whether to average the logits of an image and its mirror image in evaluation, which doubles its time.
    """

    def __init__(self, num_classes: int = 10, width: int = 32, mirror: bool = False) -> None:
        super().__init__()
        self.mirror = mirror
        # A patch of 2×2 pixels in 3 colours has 12 dimensions. Each direction has two filters of opposite signs.
        self.whitening = nn.Conv2d(3, 24, 2)
        self.whitening.weight.requires_grad_(False)
        self.stages = nn.Sequential(
            WhitenedStage(24, width),
            WhitenedStage(width, 4 * width),
            WhitenedStage(4 * width, 4 * width),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(4 * width, num_classes, bias=False)

    @torch.no_grad()
    def init_from_data(self, images: Tensor) -> None:
        """Computes the whitening layer from training images, normalized float ``(N, 3, H, W)``, before training.

        With the eigenvectors eᵢ and eigenvalues vᵢ of the second moments of the patches, the filters are
        ±eᵢ/√(vᵢ + ε): their outputs are uncorrelated and have about unit variance.
        """
        # Neighbouring pixels are nearly the same, so that every second patch in each direction is enough.
        patches = nn.functional.unfold(images.float(), 2, stride=2).movedim(1, -1).flatten(0, -2)
        moments = (patches.T @ patches).double() / len(patches)
        values, vectors = torch.linalg.eigh(moments)
        filters = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2).to(self.whitening.weight)
        self.whitening.weight.copy_(torch.cat([filters, -filters]))
        assert self.whitening.bias is not None
        self.whitening.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalized float images ``(B, 3, H, W)``.

        Raises:
            UserError: If H or W is below 9.
        """
        if not torch.compiler.is_compiling() and min(images.shape[-2:]) < 9:
            size = "×".join(map(str, images.shape[-2:]))
            raise UserError(
                f"WhitenedNet needs images of 9×9 or larger, not {size}: set --data.image_size, for instance to 24"
            )
        if self.mirror and not self.training:
            return (self._logits(images) + self._logits(images.flip(-1))) / 2
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        features = self.stages(nn.functional.gelu(self.whitening(images)))
        # Keeps the initial logits small: at a high learning rate, confident predictions would have to be unlearned.
        logits: Tensor = self.head(self.pool(features).flatten(1)) / 9
        return logits


class WhitenedStage(nn.Module):
    """Two sequences of 3×3 convolution, batch norm and GELU, with max pooling after the first convolution.

    The convolutions are initialized as the identity on their input channels (Zagoruyko and Komodakis 2017,
    arXiv:1706.00388).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _identity_convolution(in_channels, channels),
            nn.MaxPool2d(2),
            ShiftNorm(channels),
            nn.GELU(),
            _identity_convolution(channels, channels),
            ShiftNorm(channels),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, in_channels, H, W)`` to ``(B, channels, ⌊H/2⌋, ⌊W/2⌋)``."""
        output: Tensor = self.layers(x)
        return output


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm without a scale, whose bias is ``GAIN`` times its parameter.

    Such a bias learns GAIN² times as fast as usual, and decays as fast as other parameters. A higher learning rate and
    a lower λ for biases would have the same effect, but this works with every optimizer.
    """

    GAIN = 8.0

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=0.4)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """``x``, ``(B, channels, H, W)``, normalized per channel, plus the bias."""
        # In training without tracking, as for the second pass of SAM, the running statistics must not change.
        tracked = self.track_running_stats or not self.training
        mean, variance = (self.running_mean, self.running_var) if tracked else (None, None)
        assert self.momentum is not None
        return nn.functional.batch_norm(
            x, mean, variance, self.weight, self.GAIN * self.bias, self.training, self.momentum, self.eps
        )


def _identity_convolution(in_channels: int, channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[: min(in_channels, channels)])
    return convolution


def _init_norms(network: nn.Module, norm_init: NormInit) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and norm_init == "uniform":
            nn.init.uniform_(module.weight)
