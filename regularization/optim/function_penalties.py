"""Penalties on what the network computes for a training batch: logits, or derivatives with respect to the images.

λ·R is added to the loss of each training step, and autograd differentiates the sum. Unlike the gradients of penalties
on weights, their gradients are therefore averaged over accumulated batches and processes, scaled, clipped and measured
together with the gradient of the loss. Each λ is that of the cited paper: only ``JacobianPenalty`` has a factor ½.
"""

import math
import warnings
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from regularization.data.sampling import Batch
from regularization.errors import UserError
from regularization.optim.penalties import Penalty, Weights
from regularization.optim.schedules import StrengthSchedule
from regularization.optim.sharpness import constant_statistics


class FunctionPenalty(Penalty):
    """The penalty λ·R(f) on the function f of the network, for the images of a training batch.

    A subclass defines ``loss``. The penalty acts on all trainable parameters.

    Args:
        strength: λ, at least 0.
        schedule: Schedule of λ, as a factor of ``strength``; null keeps λ constant.
    """

    input_gradients = False  # Whether ``loss`` differentiates with respect to the images, which then require gradients.

    def __init__(self, strength: float, schedule: StrengthSchedule | None = None) -> None:
        super().__init__(strength, "all", schedule)

    @abstractmethod
    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        """R with λ = 1, a scalar that autograd can differentiate: a mean over the images of the batch.

        Args:
            batch: The preprocessed input ``images`` ``(B, 3, H, W)`` of the network, and their ``labels``: int64
                ``(B,)``, or probabilities ``(B, num_classes)`` if images are mixed.
            logits: The network's output for them, ``(B, num_classes)``, in the precision of the forward pass.
            network: The network, with its parameters, in training mode.
        """

    def value(self, weights: Weights) -> Tensor:
        """Not defined: R depends on a batch, see ``loss``."""
        raise NotImplementedError(f"{type(self).__name__} has no value without a batch")


class GradientPenalty(FunctionPenalty):
    """R = ‖∂ℓ/∂x‖², a mean over images x with cross-entropy ℓ. Drucker and LeCun 1992 (IEEE TNN 3), arXiv:1711.09404.

    x is the preprocessed image. The penalty makes the loss change little when the pixels change little. A step also
    differentiates the gradient: it takes 3.5 to 5 times as long as a plain one. With batch norm, an image's gradient
    includes its small effect on the loss of the other images.
    """

    input_gradients = True

    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        """‖∂ℓ/∂x‖² by double backpropagation."""
        # A sum: each image's gradient is that of its own loss, whatever the size of the batch.
        return _squared_gradient(
            functional.cross_entropy(_precise(logits), batch.labels, reduction="sum"), batch.images
        )


class JacobianPenalty(FunctionPenalty):
    """R = ½·‖∂z/∂x‖²_F, a mean over images x with logits z. Hoffman, Roberts and Yaida 2019 (arXiv:1908.02729).

    It is estimated without bias by ½·C·‖∂(v·z)/∂x‖², where v is a random direction of the C logits for each image. The
    directions are a function of (seed, epoch, step), as dropout is. A step takes 3.5 to 5 times as long as a plain one,
    plus twice that of a plain one for each further projection; the paper found one to be enough.

    Args:
        strength: λ, at least 0.
        projections: Directions per image, at least 1.
        schedule: Schedule of λ, see ``FunctionPenalty``.

    Raises:
        UserError: If ``projections`` is below 1.
    """

    input_gradients = True

    def __init__(self, strength: float, projections: int = 1, schedule: StrengthSchedule | None = None) -> None:
        super().__init__(strength, schedule)
        if projections < 1:
            raise UserError(f"JacobianPenalty: projections must be at least 1, not {projections}")
        self.projections = projections

    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        """½·C·‖∂(v·z)/∂x‖², the mean over the projections v."""
        z = _precise(logits)
        directions = [functional.normalize(torch.randn_like(z)) for _ in range(self.projections)]
        norms = [_squared_gradient((v * z).sum(), batch.images) for v in directions]
        return 0.5 * z.shape[1] * torch.stack(norms).mean()


class ConfidencePenalty(FunctionPenalty):
    """R = log C − H(p), a mean over images with softmax p and its entropy H. Pereyra et al. 2017 (arXiv:1701.06548).

    It is 0 for the uniform prediction over C classes, and log C for a prediction with probability 1. The paper's −H(p)
    has the same gradient. It takes 5% of the time of a step of a small network.
    """

    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        """log C + Σ p·log p."""
        log_p = _precise(logits).log_softmax(dim=1)
        return math.log(logits.shape[1]) + (log_p.exp() * log_p).sum(dim=1).mean()


class LogitPenalty(FunctionPenalty):
    """R = ‖z‖², a mean over images with logits z. Kornblith et al. 2021 (arXiv:2010.16402).

    Unlike ``ConfidencePenalty`` it never becomes flat, and also limits the mean of the logits. It takes 5% of the time
    of a step of a small network.
    """

    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        """Σz²."""
        return _precise(logits).square().sum(dim=1).mean()


class ZLoss(FunctionPenalty):
    """R = (log Σ_c exp z_c)², a mean over images with logits z. Zoph et al. 2022 (arXiv:2202.08906).

    It pulls the normalizer of the softmax, Σ_c exp z_c, towards 1 without constraining the probabilities: adding a
    constant to all logits does not change them. This keeps the logits in the range where 16 bits are precise. It takes
    5% of the time of a step of a small network.
    """

    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        """(log Σ exp z)²."""
        return _precise(logits).logsumexp(dim=1).square().mean()


class RDrop(FunctionPenalty):
    """R = ½·(KL(p‖q) + KL(q‖p)), a mean over images with predictions p and q of two passes. arXiv:2106.14448.

    R-Drop (Liang et al. 2021). The passes differ by their dropout, stochastic depth or DropBlock: a network without
    them has R = 0. Here the loss contains only the cross-entropy of the first pass. The paper adds those of both
    passes, so that its α is twice this λ. The second pass does not change the statistics of batch norm. A step takes
    about twice the time.
    """

    _compared = False

    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        """½·Σ(p − q)·(log p − log q)."""
        with constant_statistics(network):
            output = network(batch.images.to(next(network.parameters()).dtype))
        repeated = output[0] if isinstance(output, tuple) else output  # without auxiliary classifiers
        log_p, log_q = (_precise(z).log_softmax(dim=1) for z in (logits, repeated))
        divergence = 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1).mean()
        if not self._compared and divergence.item() < 1e-10:
            warnings.warn("RDrop has no effect: two passes of the network agree; it needs dropout", stacklevel=2)
        self._compared = True  # in the first step only: each comparison waits for the device
        return divergence


def _precise(x: Tensor) -> Tensor:
    """``x`` in float32 or better: sums and logarithms of 16 bits would be lost to rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _squared_gradient(output: Tensor, images: Tensor) -> Tensor:
    """‖∂output/∂x‖², a mean over ``images`` x ``(B, …)``, that can be differentiated again."""
    (gradient,) = torch.autograd.grad(output, images, create_graph=True)
    return _precise(gradient).square().sum() / len(images)
