"""Penalties that are added to the loss: their value, gradient and, where one exists, proximal step.

Every λ is in PyTorch's sense: ``L2(strength=λ)`` is ½·λ·Σw², whose gradient λ·w is that of ``weight_decay=λ``.
Gradients are added to ``.grad`` once before each optimizer step; proximal steps are applied once after it. All methods
take a list of weights at once, in float32 or better. The closed forms are faster than autograd.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from regularization.errors import UserError
from regularization.optim.schedules import StrengthSchedule

Selection = Literal["weights", "scales", "biases", "all"] | list[str]
Weights = list[Tensor]


class Penalty(ABC):
    """The penalty λ·R(w) on selected parameters of the network.

    Args:
        strength: λ, at least 0.
        parameters: Parameters to penalize: ``weights`` (two or more dimensions), ``scales`` (the γ of norm layers),
            ``biases``, ``all``, or a list of name patterns such as ``["head.*", "!*.bias"]``.
        schedule: Schedule of λ, as a factor of ``strength``; null keeps λ constant.

    Raises:
        UserError: If λ is negative, infinite or not a number.
    """

    proximal = False  # Whether the proximal step is applied instead of the gradient.

    def __init__(
        self, strength: float, parameters: Selection = "weights", schedule: StrengthSchedule | None = None
    ) -> None:
        if not (math.isfinite(strength) and strength >= 0):
            raise UserError(f"{type(self).__name__}: strength must be a number of at least 0, not {strength}")
        self.strength = strength
        self.parameters = parameters
        self.schedule = schedule

    @abstractmethod
    def value(self, weights: Weights) -> Tensor:
        """R(w) with λ = 1, a scalar."""

    def gradients(self, weights: Weights) -> list[Tensor]:
        """∂R/∂w with λ = 1, for each of ``weights`` in its shape; by autograd, unless a subclass has a closed form."""
        with torch.enable_grad():
            leaves = [w.detach().requires_grad_() for w in weights]
            return list(torch.autograd.grad(self.value(leaves), leaves, materialize_grads=True))

    def prox(self, weights: Weights, threshold: float) -> None:
        """The proximal step, in place: each w becomes argmin over v of ½·‖v − w‖² + threshold·R(v).

        Args:
            weights: The weights, changed in place.
            threshold: Step size times λ.
        """
        raise NotImplementedError


class Sparsifying(Penalty):
    """A penalty whose proximal step sets weights to exactly zero, which its subgradient never does.

    Args:
        strength: λ, at least 0.
        parameters: Parameters to penalize, see ``Penalty``.
        schedule: Schedule of λ, see ``Penalty``.
        proximal: Whether to apply the proximal step after the optimizer's step; false adds the subgradient before it.
    """

    def __init__(
        self,
        strength: float,
        parameters: Selection = "weights",
        schedule: StrengthSchedule | None = None,
        proximal: bool = True,
    ) -> None:
        super().__init__(strength, parameters, schedule)
        self.proximal = proximal


class L2(Penalty):
    """R = ½·Σw², with the gradient w: the same as ``SGD(weight_decay=λ)``. Krogh and Hertz 1991 (NeurIPS 4).

    The seed and Keras write λ·Σw²: their λ is half of this one.
    """

    def value(self, weights: Weights) -> Tensor:
        """½·Σw²."""
        return 0.5 * _total([norm.square() for norm in torch._foreach_norm(weights)])

    def gradients(self, weights: Weights) -> list[Tensor]:
        """The weights themselves."""
        return list(weights)


class L1(Sparsifying):
    """R = Σ|w|, with the gradient sign(w) and soft thresholding as proximal step. Tibshirani 1996 (JRSS B 58)."""

    def value(self, weights: Weights) -> Tensor:
        """Σ|w|."""
        return _total(torch._foreach_norm(weights, 1))

    def gradients(self, weights: Weights) -> list[Tensor]:
        """sign(w), which is 0 at 0."""
        return list(torch._foreach_sign(weights))

    def prox(self, weights: Weights, threshold: float) -> None:
        """sign(w)·max(|w| − threshold, 0)."""
        _soft_threshold(weights, threshold)


class ElasticNet(Sparsifying):
    """R = ρ·Σ|w| + ½·(1 − ρ)·Σw², with ρ = ``l1_ratio``. Zou and Hastie 2005 (JRSS B 67).

    Args:
        strength: λ, at least 0.
        l1_ratio: ρ, from 0 to 1.
        parameters: Parameters to penalize, see ``Penalty``.
        schedule: Schedule of λ, see ``Penalty``.
        proximal: Whether to apply the proximal step; with the gradient, no weight becomes exactly zero.

    Raises:
        UserError: If ρ is not between 0 and 1.
    """

    def __init__(
        self,
        strength: float,
        l1_ratio: float = 0.5,
        parameters: Selection = "weights",
        schedule: StrengthSchedule | None = None,
        proximal: bool = True,
    ) -> None:
        super().__init__(strength, parameters, schedule, proximal)
        if not 0 <= l1_ratio <= 1:
            raise UserError(f"ElasticNet: l1_ratio must be between 0 and 1, not {l1_ratio}")
        self.l1_ratio = l1_ratio

    def value(self, weights: Weights) -> Tensor:
        """ρ·Σ|w| + ½·(1 − ρ)·Σw²."""
        squares = [norm.square() for norm in torch._foreach_norm(weights)]
        return self.l1_ratio * _total(torch._foreach_norm(weights, 1)) + 0.5 * (1 - self.l1_ratio) * _total(squares)

    def gradients(self, weights: Weights) -> list[Tensor]:
        """ρ·sign(w) + (1 − ρ)·w."""
        signs = torch._foreach_mul(torch._foreach_sign(weights), self.l1_ratio)
        return list(torch._foreach_add(signs, weights, alpha=1 - self.l1_ratio))

    def prox(self, weights: Weights, threshold: float) -> None:
        """Soft thresholding by ρ·threshold, then division by 1 + (1 − ρ)·threshold."""
        _soft_threshold(weights, self.l1_ratio * threshold)
        torch._foreach_div_(weights, 1 + (1 - self.l1_ratio) * threshold)


class GroupLasso(Sparsifying):
    """R = Σ_g √|g|·‖w_g‖₂ over output filters g: whole filters become zero. Yuan and Lin 2006 (JRSS B 68).

    On ``scales``, every γ is its own group: network slimming (Liu et al. 2017, arXiv:1708.06519). A filter that is
    followed by a norm layer can shrink without changing the function: there, the penalty gives no exact zeros and only
    raises the effective learning rate. Penalize the ``scales`` of the norm layer instead.
    """

    def value(self, weights: Weights) -> Tensor:
        """Σ_g √|g|·‖w_g‖."""
        return _total([math.sqrt(filters(w).shape[1]) * filters(w).norm(dim=1).sum() for w in weights])

    def gradients(self, weights: Weights) -> list[Tensor]:
        """√|g|·w_g/‖w_g‖, 0 where w_g is 0."""
        sizes = [math.sqrt(filters(w).shape[1]) for w in weights]
        units = [torch.nn.functional.normalize(filters(w), eps=1e-30) for w in weights]
        return [(unit * size).view_as(w) for w, unit, size in zip(weights, units, sizes, strict=True)]

    def prox(self, weights: Weights, threshold: float) -> None:
        """w_g·max(1 − threshold·√|g|/‖w_g‖, 0)."""
        for w in weights:
            _scale_filters(w, (1 - threshold * math.sqrt(filters(w).shape[1]) / _filter_norms(w)).clamp(min=0))


class Orthogonal(Penalty):
    """R = ¼·‖W·Wᵀ − I‖²_F, with the gradient (W·Wᵀ − I)·W: pulls the singular values of W towards 1.

    W is a kernel flattened to filters × rest, transposed if it has more rows than columns. Brock et al. 2017
    (arXiv:1609.07093), Bansal et al. 2018 (arXiv:1810.09102).
    """

    def value(self, weights: Weights) -> Tensor:
        """¼·‖W·Wᵀ − I‖²_F, summed over the kernels."""
        return 0.25 * _total([self._gram_minus_identity(_wide(w)).square().sum() for w in weights])

    def gradients(self, weights: Weights) -> list[Tensor]:
        """(W·Wᵀ − I)·W in the shape of each kernel."""
        wide = [self._gram_minus_identity(_wide(w)) @ _wide(w) for w in weights]
        return [
            (gradient if gradient.shape == filters(w).shape else gradient.T).reshape(w.shape)
            for gradient, w in zip(wide, weights, strict=True)
        ]

    @staticmethod
    def _gram_minus_identity(wide: Tensor) -> Tensor:
        return wide @ wide.T - torch.eye(len(wide), dtype=wide.dtype, device=wide.device)


class MaxNorm(Penalty):
    """The constraint ‖w_g‖₂ ≤ limit on every output filter g: each step ends with a projection onto it.

    As a penalty, R is 0 inside the constraint and infinite outside. Srebro and Shraibman 2005 (COLT); with dropout,
    Srivastava et al. 2014 (JMLR 15).

    Args:
        limit: Largest norm of a filter. Must be above 0; otherwise ``UserError`` is raised.
        parameters: Parameters to constrain, see ``Penalty``.
    """

    proximal = True

    def __init__(self, limit: float, parameters: Selection = "weights") -> None:
        if not limit > 0:
            raise UserError(f"MaxNorm: limit must be above 0, not {limit}")
        super().__init__(1.0, parameters)
        self.limit = limit

    def value(self, weights: Weights) -> Tensor:
        """0, because the weights satisfy the constraint after each step."""
        return weights[0].new_zeros(())

    def gradients(self, weights: Weights) -> list[Tensor]:
        """Zeros."""
        return list(torch._foreach_mul(weights, 0))

    def prox(self, weights: Weights, threshold: float) -> None:
        """w_g·min(limit/‖w_g‖, 1), which does not depend on the threshold."""
        for w in weights:
            _scale_filters(w, (self.limit / _filter_norms(w)).clamp(max=1))


def filters(w: Tensor) -> Tensor:
    """``w`` as a matrix with one output filter per row; a vector becomes a column, one number per row."""
    return w.flatten(1) if w.ndim > 1 else w[:, None]


def _filter_norms(w: Tensor) -> Tensor:
    """‖w_g‖ per filter, ``(filters, 1)``; clamped above 0, because it is used as a divisor."""
    norms: Tensor = filters(w).norm(dim=1, keepdim=True)
    return norms.clamp(min=1e-30)


def _scale_filters(w: Tensor, factors: Tensor) -> None:
    """Multiplies each filter of ``w`` by its factor, in place; ``factors`` is ``(filters, 1)``."""
    w.mul_(factors.view(-1, *[1] * (w.ndim - 1)))


def _wide(w: Tensor) -> Tensor:
    """The matrix of filters, transposed if it has more rows than columns."""
    matrix = filters(w)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _soft_threshold(weights: Weights, threshold: float) -> None:
    shrunk = torch._foreach_abs(weights)
    torch._foreach_sub_(shrunk, threshold)
    torch._foreach_clamp_min_(shrunk, 0.0)
    torch._foreach_sign_(weights)
    torch._foreach_mul_(weights, shrunk)


def _total(scalars: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(scalars)).sum()
