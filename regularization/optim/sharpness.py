"""Sharpness-aware training: the gradient is taken at weights near the current ones at which the loss is higher."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from regularization.errors import UserError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SAM:
    """Sharpness-aware minimization: the gradient at w + ε instead of at w, with ε = ρ·g/‖g‖ for the gradient g at w.

    Foret et al. 2020 (arXiv:2010.01412). A step has two forward and two backward passes, and takes about twice the
    time. Both forward passes use the same random numbers, and the second one does not change the statistics of batch
    norm. With gradient accumulation, each batch has its own ε. Weight decay and penalties on weights are computed at w;
    penalties on the network's function are part of the loss.

    Args:
        rho: ρ, the length of ε; 0 switches it off.

    Raises:
        UserError: If ``rho`` is negative.
    """

    def __init__(self, rho: float = 0.05) -> None:
        if not rho >= 0:
            raise UserError(f"{type(self).__name__}: rho must be at least 0, not {rho}")
        self.rho = rho

    def perturbations(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """ε for each tensor of the weights."""
        return [gradient * (self.rho / _norm(gradients)) for gradient in gradients]

    def loss(
        self,
        network: nn.Module,
        loss: Tensor,
        repeat: Callable[[], Tensor],
        reduce: Callable[[Tensor], Tensor] = lambda gradient: gradient,
    ) -> Tensor:
        """A scalar with the value of ``loss`` and the gradient of the loss at the perturbed weights.

        Args:
            network: The network. Its weights are perturbed and restored.
            loss: The loss at the current weights.
            repeat: Computes the loss again, with the weights at the time of the call.
            reduce: Gives the mean of a gradient over all processes.
        """
        if not self.rho:
            return loss
        trained = [w for w in network.parameters() if w.requires_grad]
        found = torch.autograd.grad(loss, trained, allow_unused=True)
        weights: list[Tensor] = [w for w, gradient in zip(trained, found, strict=True) if gradient is not None]
        gradients = [reduce(gradient) for gradient in found if gradient is not None]
        originals = [w.detach().clone() for w in weights]
        try:
            with torch.no_grad():
                torch._foreach_add_(weights, self.perturbations(originals, gradients))
            with constant_statistics(network):
                perturbed = torch.autograd.grad(repeat(), weights)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, originals)
        product = torch.stack([(w * gradient).sum() for w, gradient in zip(weights, perturbed, strict=True)]).sum()
        return loss.detach() + (product - product.detach())


class ASAM(SAM):
    """Adaptive SAM: ε = ρ·T²g/‖Tg‖ with T = |w| + 0.01, which does not depend on the scale of the weights.

    Kwon et al. 2021 (arXiv:2102.11600).

    Args:
        rho: ρ, about ten times that of ``SAM``; 0 switches it off.
    """

    def __init__(self, rho: float = 0.5) -> None:
        super().__init__(rho)

    def perturbations(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """ε for each tensor of the weights."""
        scales = [w.abs() + 0.01 for w in weights]
        scaled = [scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]
        factor = self.rho / _norm(scaled)
        return [scale * gradient * factor for scale, gradient in zip(scales, scaled, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of all tensors together; above 0."""
    norm: Tensor = torch.stack(list(torch._foreach_norm(list(tensors)))).norm()
    return norm + 1e-12


@contextmanager
def constant_statistics(network: nn.Module) -> Iterator[None]:
    """Keeps the running means and variances of batch norm as they are."""
    norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    tracked = [norm for norm in norms if norm.track_running_stats]
    try:
        for norm in tracked:
            norm.track_running_stats = False
        yield
    finally:
        for norm in tracked:
            norm.track_running_stats = True
