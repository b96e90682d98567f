"""Networks for tests of several processes."""

import os
import signal

from torch import Tensor, nn

from regularization import SmallResNet


class Frozen(SmallResNet):
    """SmallResNet with batch norm always in evaluation mode: the output for an image depends on that image alone."""

    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__(num_classes=num_classes, width=width)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                nn.init.constant_(module.weight, 2.0)  # else activations vanish: its statistics are not measured
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]


class Lost(SmallResNet):
    """SmallResNet that kills the second process of torchrun as soon as it scores an image."""

    by = signal.SIGKILL

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), self.by)
        return super().forward(x)


class Ended(Lost):
    """The same with SIGTERM, which asks a process to end."""

    by = signal.SIGTERM
