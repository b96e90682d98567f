"""Closed forms against autograd and finite differences, and proximal steps against their definition as a minimum."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regularization import L1, L2, L2EMA, L2SP, ElasticNet, GroupLasso, MaxNorm, Orthogonal, Penalty, SmallResNet
from regularization.errors import UserError
from regularization.optim.applied import Regularizer
from regularization.optim.penalties import filters
from regularization.optim.references import ReferencePenalty

SHAPES = st.sampled_from([(7,), (1,), (3, 5), (5, 3), (4, 4), (2, 3, 3, 3), (6, 1, 1, 1), (8, 2, 1, 2)])


def penalties() -> dict[str, Penalty]:
    return {
        "l1": L1(1.0),
        "l2": L2(1.0),
        "elastic": ElasticNet(1.0, l1_ratio=0.3),
        "group": GroupLasso(1.0),
        "orthogonal": Orthogonal(1.0),
        "l2sp": L2SP(1.0),
        "l2ema": L2EMA(1.0),
    }


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=generator, dtype=torch.double)
    return w + 0.05 * w.sign()  # away from the kinks at 0


def formula(name: str, w: Tensor) -> Tensor:
    """The penalty of one tensor, from its textbook formula."""
    result: Tensor = _formula(name, w)
    return result


def _formula(name: str, w: Tensor) -> Any:
    matrix = filters(w)
    if name == "l1":
        return w.abs().sum()
    if name == "l2":
        return 0.5 * (w * w).sum()
    if name == "elastic":
        return 0.3 * w.abs().sum() + 0.35 * (w * w).sum()
    if name == "group":
        return math.sqrt(matrix.shape[1]) * (matrix * matrix).sum(1).sqrt().sum()
    if name == "orthogonal":
        singular = torch.linalg.svdvals(matrix)  # as many as the shorter side has
        return 0.25 * ((singular.square() - 1).square()).sum()
    return 0.5 * (w - 0.5).square().sum()


@settings(max_examples=60)
@given(st.sampled_from(sorted(penalties())), st.lists(SHAPES, min_size=1, max_size=3), st.integers(0, 1000))
def test_value_and_gradient(name: str, shapes: list[tuple[int, ...]], seed: int) -> None:
    penalty = penalties()[name]
    weights = [draw(shape, seed + index).requires_grad_() for index, shape in enumerate(shapes)]
    if isinstance(penalty, ReferencePenalty):
        penalty.reference = [torch.full_like(w, 0.5) for w in weights]
    value = sum((formula(name, w) for w in weights), start=torch.zeros((), dtype=torch.double))
    gradients = torch.autograd.grad(value, weights)
    detached = [w.detach() for w in weights]
    torch.testing.assert_close(penalty.value(detached), value.detach(), rtol=1e-10, atol=1e-12)
    for gradient, expected in zip(penalty.gradients(detached), gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", sorted(penalties()))
def test_gradient_by_finite_differences(name: str) -> None:
    penalty = penalties()[name]
    w = draw((3, 2, 2, 2), 0)
    if isinstance(penalty, ReferencePenalty):
        penalty.start([torch.zeros_like(w)])

    def value(flat: Any) -> float:
        return penalty.value([torch.from_numpy(np.asarray(flat)).view_as(w)]).item()

    numeric = scipy.optimize.approx_fprime(w.flatten().numpy(), value, 1e-7)
    np.testing.assert_allclose(penalty.gradients([w])[0].flatten().numpy(), numeric, rtol=1e-5, atol=1e-5)


@settings(max_examples=25)
@given(st.sampled_from(["l1", "elastic", "group"]), SHAPES, st.floats(0.01, 1.5), st.integers(0, 1000))
def test_prox_minimizes_its_objective(name: str, shape: tuple[int, ...], threshold: float, seed: int) -> None:
    w = draw(shape, seed)
    moved = w.clone()
    penalties()[name].prox([moved], threshold)

    def objective(v: Tensor) -> float:
        return (0.5 * (v - w).square().sum() + threshold * formula(name, v)).item()

    generator = torch.Generator().manual_seed(seed)
    for scale in (1e-1, 1e-3, 1e-5):
        step = torch.randn(w.shape, generator=generator, dtype=torch.double)
        assert objective(moved) <= objective(moved + scale * step) + 1e-12
    assert objective(moved) <= objective(w)


def test_prox_of_group_lasso_sets_whole_filters_to_zero() -> None:
    w = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    GroupLasso(1.0).prox([w], 1.0)
    assert torch.equal(w[1], torch.zeros(2))
    torch.testing.assert_close(w[0], torch.tensor([3.0, 4.0]) * (1 - math.sqrt(2) / 5))


@settings(max_examples=30)
@given(SHAPES, st.floats(0.1, 3), st.integers(0, 1000))
def test_max_norm_projects_onto_the_ball(shape: tuple[int, ...], limit: float, seed: int) -> None:
    w = draw(shape, seed)
    moved = w.clone()
    MaxNorm(limit).prox([moved], 123.0)
    for before, after in zip(filters(w), filters(moved), strict=True):
        expected = before if before.norm() <= limit else before * limit / before.norm()
        torch.testing.assert_close(after, expected, rtol=1e-12, atol=1e-12)


def test_orthogonal_penalizes_the_shorter_side_only() -> None:
    assert Orthogonal(1.0).value([torch.eye(5)[:3]]) == 0
    assert Orthogonal(1.0).value([torch.eye(5)[:, :3]]) == 0


@pytest.mark.parametrize("strength", [-1e-9, math.nan, math.inf])
def test_invalid_strengths_are_rejected(strength: float) -> None:
    for make in (L1, L2, ElasticNet, GroupLasso, Orthogonal, L2SP, L2EMA):
        with pytest.raises(
            UserError, match=f"{make.__name__}: strength must be a number of at least 0, not {strength}"
        ):
            make(strength)


def test_other_invalid_values_are_rejected() -> None:
    for limit in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="MaxNorm: limit must be above 0"):
            MaxNorm(limit)
    for decay in (0.0, 1.0, math.nan):
        with pytest.raises(UserError, match="L2EMA: decay must be above 0 and below 1"):
            L2EMA(1.0, decay)
    with pytest.raises(UserError, match="l1_ratio must be between 0 and 1"):
        ElasticNet(1.0, l1_ratio=1.5)


def test_selection_of_parameters() -> None:
    network = SmallResNet(width=4)
    names = {
        "weights": [name for name, w in network.named_parameters() if w.ndim > 1],
        "scales": [name for name, w in network.named_parameters() if w.ndim == 1 and name.endswith(".weight")],
        "biases": [name for name, _ in network.named_parameters() if name.endswith(".bias")],
        "all": [name for name, _ in network.named_parameters()],
    }
    for selection, expected in names.items():
        selected = Regularizer(network, {"p": L2(1.0, selection)}).selected["p"]  # type: ignore[arg-type]
        assert list(selected) == expected
        assert expected
    patterns = Regularizer(network, {"p": L2(1.0, ["head.*", "stages.?.branch.0.weight"])}).selected["p"]
    assert len(patterns) == 2 + 3


def test_patterns_without_a_match_and_untypable_names_are_rejected() -> None:
    network = SmallResNet(width=4)
    with pytest.raises(UserError, match=r"model.penalties.x: 'heat.weight' matches none .* \(did you mean head.weight"):
        Regularizer(network, {"x": L2(1.0, ["heat.weight"])})
    with pytest.raises(UserError, match="parameters is empty"):
        Regularizer(network, {"x": L2(1.0, [])})
    for name in ("a.b", "", "a b", "-x"):
        with pytest.raises(UserError, match="must be made of letters"):
            Regularizer(network, {name: L2(1.0)})
