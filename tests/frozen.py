"""A network whose batch norm stays as it is: without it, what an image gives depends on that image alone."""

from torch import nn

from regularization import SmallResNet


class Frozen(SmallResNet):
    """SmallResNet with batch norm always in evaluation mode."""

    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__(num_classes=num_classes, width=width)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                nn.init.constant_(module.weight, 2.0)  # else signals die out, as its statistics are nobody's
                module.train = lambda mode=True, module=module: module  # type: ignore[method-assign, misc]
