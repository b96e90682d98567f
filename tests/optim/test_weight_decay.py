"""The meaning of λ, against recursions in NumPy, the exact root of the timescale, and other libraries."""

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from regularization import L2, SGDW, Digits, ImageClassifier, LikeLearningRate, MuonAdamW, SmallResNet, WarmupDecay
from regularization.errors import UserError
from regularization.optim.applied import Regularizer, select_parameters, step_size
from regularization.optim.factory import OptimizerFactory
from regularization.optim.weight_decay import (
    decay_per_step,
    is_decoupled,
    parameter_groups,
    parameter_kind,
    strength_for,
)
from tests.models.test_classifier import trainer


def quadratic(optimizer: torch.optim.Optimizer, w: Tensor, steps: int, closure: bool) -> list[float]:
    """Minimizes ½(w − 3)² and returns the path of w."""
    path = []

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (w - 3).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(steps):
        if closure:
            optimizer.step(evaluate)  # type: ignore[arg-type]
        else:
            evaluate()
            optimizer.step()
        path.append(w.item())
    return path


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0, 0, False), (0.9, 0, False), (0.9, 0, True), (0.8, 0.3, False)]
)
def test_sgdw_follows_its_recursion(momentum: float, dampening: float, nesterov: bool, closure: bool) -> None:
    lr, decay = 0.1, 0.05
    w = torch.tensor([1.0], dtype=torch.double, requires_grad=True)
    path = quadratic(SGDW([w], lr, momentum, dampening, decay, nesterov), w, 20, closure)
    x, buffer, expected = 1.0, None, []
    for _ in range(20):
        g = x - 3.0
        update = g
        if momentum:
            buffer = g if buffer is None else momentum * buffer + (1 - dampening) * g
            update = g + momentum * buffer if nesterov else buffer
        x = (1 - lr * decay) * x - lr * update
        expected.append(x)
    np.testing.assert_allclose(path, expected, rtol=1e-13)


@pytest.mark.parametrize("foreach", [False, True])
def test_sgdw_without_decay_is_bit_identical_to_sgd(foreach: bool) -> None:
    results = []
    for make in (SGDW, torch.optim.SGD):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        optimizer = make(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=foreach)
        for _ in range(10):
            optimizer.zero_grad()
            network(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        results.append(torch.cat([w.detach().flatten() for w in network.parameters()]))
    assert torch.equal(*results)


def test_hooks_of_sgdw_are_called_once_per_step() -> None:
    calls = []
    w = torch.zeros(1, requires_grad=True)
    torch.optim.SGD([w], lr=0.1)  # this wraps SGD.step
    optimizer = SGDW([w], lr=0.1)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    quadratic(optimizer, w, 3, closure=True)
    assert len(calls) == 3


def test_conversion_table() -> None:
    """What remains of a weight of 1 after 2,000 steps with zero gradient, lr 0.1, λ 5e-4 and momentum 0.9."""

    def remaining(make: Any) -> float:
        w = torch.ones(1, dtype=torch.double, requires_grad=True)
        optimizer = make([w], lr=0.1, momentum=0.9, weight_decay=5e-4)
        w.grad = torch.zeros_like(w)
        for _ in range(2000):
            optimizer.step()
        return w.item()

    assert remaining(SGDW) == pytest.approx((1 - 5e-5) ** 2000)
    assert remaining(SGDW) == pytest.approx(0.905, abs=5e-4)
    assert remaining(torch.optim.SGD) == pytest.approx(0.368, abs=5e-4)
    assert remaining(lambda p, lr, momentum, weight_decay: torch.optim.AdamW(p, lr, weight_decay=weight_decay)) == (
        pytest.approx(0.905, abs=5e-4)
    )
    # Keras' L2(λ) adds λ·Σw² to the loss, without the factor ½.
    assert remaining(
        lambda p, lr, momentum, weight_decay: torch.optim.SGD(p, lr, momentum, weight_decay=2 * weight_decay)
    ) == pytest.approx(0.134, abs=5e-4)
    # Composer multiplies by 1 − λ·lr/initial_lr: its λ is that of SGDW times the initial learning rate.
    assert remaining(
        lambda p, lr, momentum, weight_decay: SGDW(p, lr, momentum, weight_decay=weight_decay / lr)
    ) == pytest.approx(0.368, abs=5e-4)


def recursion_root(lr: float, decay: float, momentum: float, dampening: float) -> float:
    """Largest eigenvalue of one step of coupled SGD on (w, buffer) with zero gradient: the fraction that remains."""
    gain = 1 - dampening if momentum else 1.0
    step = np.array([[1 - lr * gain * decay, -lr * momentum], [gain * decay, momentum]])
    return float(np.abs(np.linalg.eigvals(step)).max())


@settings(max_examples=60)
@given(st.floats(1e-4, 0.2), st.floats(1e-6, 1e-3), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.4]))
def test_timescale_against_the_exact_root(lr: float, decay: float, momentum: float, dampening: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr, momentum, dampening, decay)
    per_step = decay_per_step(optimizer, optimizer.param_groups[0])
    assert per_step == pytest.approx(-math.log(recursion_root(lr, decay, momentum, dampening)), rel=0.05)
    assert per_step
    strength = strength_for(1 / per_step, optimizer, optimizer.param_groups[0], lr)
    assert strength == pytest.approx(decay)


def test_timescale_of_other_optimizers() -> None:
    w = [torch.zeros(1, requires_grad=True)]
    for optimizer, expected in (
        (SGDW(w, 0.1, 0.9, weight_decay=0.2), 0.02),
        (torch.optim.AdamW(w, 0.1, weight_decay=0.2), 0.02),
        (torch.optim.Adam(w, 0.1, weight_decay=0.2), None),
        (torch.optim.SGD(w, 0.1, weight_decay=0.0), 0.0),
        (torch.optim.LBFGS(w), 0.0),
    ):
        assert decay_per_step(optimizer, optimizer.param_groups[0]) == (expected and pytest.approx(expected))


def remaining_after_steps(optimizer: torch.optim.Optimizer, w: Tensor, steps: int) -> float:
    """The fraction of w, a tensor of ones, that remains after steps with zero gradient."""
    for _ in range(steps):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    assert w.std() < 1e-6
    return w.mean().item()


def check_timescale(make: Any) -> None:
    """1/τ per step is the exact decay by steps with zero gradient: (1 − ηλ)ⁿ."""
    w = torch.ones(3, 2, requires_grad=True)
    optimizer = make([w], lr=0.01, weight_decay=0.5)
    per_step = decay_per_step(optimizer, optimizer.param_groups[0])
    assert per_step == pytest.approx(0.005)
    assert remaining_after_steps(optimizer, w, 20) == pytest.approx((1 - 0.005) ** 20, rel=1e-4)
    assert strength_for(100, optimizer, optimizer.param_groups[0], 0.02) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.Muon,
        torch.optim.AdamW,
        partial(torch.optim.AdamW, amsgrad=True),
        torch.optim.Adafactor,
        partial(torch.optim.RAdam, decoupled_weight_decay=True),
        partial(SGDW, momentum=0.9),
        partial(SGDW, momentum=0.9, cautious=True),
        MuonAdamW,
    ],
)
def test_decoupled_optimizers_decay_as_their_timescale_says(make: Any) -> None:
    check_timescale(make)


@pytest.mark.parametrize("name", ["SGDW", "AdamW", "AdamWLegacy", "NAdamW", "Lion", "LaProp", "Muon"])
def test_decoupled_optimizers_of_timm_decay_as_their_timescale_says(name: str) -> None:
    check_timescale(getattr(pytest.importorskip("timm.optim"), name))


@pytest.mark.parametrize(
    "make",
    [
        *(torch.optim.Adam, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax, torch.optim.RMSprop),
        *(torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD, torch.optim.Rprop),
        partial(torch.optim.SGD, momentum=0.9),
        torch.optim.LBFGS,
    ],
)
def test_other_optimizers_are_not_decoupled(make: Any) -> None:
    assert not is_decoupled(make([torch.zeros(3, 2, requires_grad=True)]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Lars", {}),  # scales λ by the norms
        ("Lamb", {"decoupled_decay": False, "trust_clip": True}),
        ("Lion", {"corrected_weight_decay": True}),  # η²λ/η_max
        ("AdaBelief", {"fixed_decay": True}),  # λ without η
        ("SGDP", {"momentum": 0.9, "weight_decay": 0.1}),  # ηλ/(1 − μ)
    ],
)
def test_optimizers_of_timm_that_scale_lambda_otherwise_are_not_decoupled(name: str, options: dict[str, Any]) -> None:
    make = getattr(pytest.importorskip("timm.optim"), name)
    assert not is_decoupled(make([torch.zeros(3, 2, requires_grad=True)], lr=0.1, **options))


def test_the_measurement_does_not_change_the_optimizer() -> None:
    w = torch.ones(3, 2, requires_grad=True)
    optimizer = torch.optim.AdamW([w], lr=0.1, weight_decay=0.1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # this wraps the step of the optimizer
    w.grad = torch.ones_like(w)
    optimizer.step()
    state = {key: value.clone() for key, value in optimizer.state[w].items()}
    before, options = w.detach().clone(), {**optimizer.param_groups[0]}
    assert is_decoupled(optimizer)
    assert torch.equal(w, before)
    assert optimizer.param_groups[0] == options
    assert len(calls) == 1
    assert all(torch.equal(optimizer.state[w][key], value) for key, value in state.items())


def test_a_schedule_of_the_momentum_changes_the_decay_of_sgd() -> None:
    """OneCycleLR gives a momentum to SGD without one, after the optimizer was made."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, weight_decay=0.2)
    assert decay_per_step(optimizer, optimizer.param_groups[0]) == pytest.approx(0.02)
    optimizer.param_groups[0]["momentum"] = 0.9
    assert decay_per_step(optimizer, optimizer.param_groups[0]) == pytest.approx(0.2)


def test_the_biases_of_attention_are_biases() -> None:
    kinds = {name: parameter_kind(name, w) for name, w in nn.TransformerEncoderLayer(4, 2).named_parameters()}
    assert {name for name, kind in kinds.items() if kind == "scales"} == {"norm1.weight", "norm2.weight"}
    assert kinds["self_attn.in_proj_bias"] == "biases"
    assert kinds["self_attn.in_proj_weight"] == "weights"


def test_a_timescale_needs_a_constant_momentum() -> None:
    sgd, network = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3), nn.Linear(3, 2)
    cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    with pytest.raises(UserError, match="OneCycleLR changes the momentum, on which τ depends"):
        OptimizerFactory(network, sgd, cycle, "all", None, timescale_epochs=5)
    factory = OptimizerFactory(network, sgd, cycle, "all", None, timescale_epochs=None)
    assert factory.tau(factory.build()[0], 0) is None
    constant = OptimizerFactory(network, sgd, partial(cycle, cycle_momentum=False), "all", None, timescale_epochs=5)
    constant.prepare(100, 10)
    assert constant.tau(constant.build()[0], 0) == pytest.approx(5)


def test_a_parameter_group_that_was_added_keeps_its_decay() -> None:
    sgd = partial(torch.optim.SGD, lr=0.1, weight_decay=1e-3)
    factory = OptimizerFactory(nn.Linear(3, 2), sgd, None, "all", None, timescale_epochs=None)
    optimizer, _ = factory.build()
    optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True)], "weight_decay": 0.5})
    optimizer.param_groups[0]["weight_decay"] = 0.7
    factory.apply_decay_schedule(optimizer, (0.5, 1.0))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-3, 0.5]


def test_parameter_groups() -> None:
    network = SmallResNet(width=4)
    assert [len(group["params"]) for group in parameter_groups(network, "all")] == [25]
    weights, others = parameter_groups(network, "weights")
    assert "weight_decay" not in weights
    assert others["weight_decay"] == 0
    assert {w.ndim for w in others["params"]} == {1}
    assert len(weights["params"]) + len(others["params"]) == 25


def test_parameter_groups_by_patterns() -> None:
    network = SmallResNet(width=4)
    named = dict(network.named_parameters())

    def decaying(*patterns: str) -> set[str]:
        groups = parameter_groups(network, list(patterns))
        assert sum(len(group["params"]) for group in groups) == 25
        assert all(group["weight_decay"] == 0 for group in groups[1:])
        return {name for name, w in named.items() if any(w is it for it in groups[0]["params"])}

    assert decaying("*.weight", "!*norm*") == {n for n in named if n.endswith(".weight") and n != "norm.weight"}
    assert decaying("!head.*") == {n for n in named if not n.startswith("head")}
    assert decaying("*") == set(named)
    assert set(select_parameters(network, ["head.*", "!*.bias"], "l2")) == {"head.weight"}
    for patterns, message in (
        (["heat.weight"], r"--model.decay: 'heat.weight' matches none of the 25 parameters \(did you mean head.weight"),
        (["*", "!*nrm*"], r"--model.decay: '\*nrm\*' matches none"),
        (["head.*", "!head*"], "--model.decay: the patterns select no parameter"),
        ([], "--model.decay: the patterns select no parameter"),
    ):
        with pytest.raises(UserError, match=message):
            ImageClassifier(network, decay=patterns)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0, False), (0.9, True)])
def test_cautious_decay_follows_its_recursion(momentum: float, nesterov: bool) -> None:
    lr, decay, start = 0.1, 0.5, [-2.0, 1.0, 2.9, 5.0, 3.0]
    w = torch.tensor(start, dtype=torch.double, requires_grad=True)
    optimizer = SGDW([w], lr, momentum, weight_decay=decay, nesterov=nesterov, cautious=True)
    path = []
    optimizer.register_step_post_hook(lambda *_: path.append(w.tolist()))
    x, buffer, expected, masks = np.array(start), np.zeros(5), [], []
    for _ in range(25):
        optimizer.zero_grad()
        (0.5 * (w - 3).square().sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        buffer = momentum * buffer + x - 3
        update = x - 3 + momentum * buffer if nesterov else buffer
        masks.append(update * x >= 0)
        x = x - lr * (update + decay * masks[-1] * x)
        expected.append(x)
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    assert 0 < np.mean(masks) < 1


def test_cautious_decay_keeps_the_minimum_that_plain_decay_moves() -> None:
    ends = []
    for cautious in (False, True):
        w = torch.full((1,), 0.5, dtype=torch.double, requires_grad=True)
        ends.append(quadratic(SGDW([w], 0.1, weight_decay=1.0, cautious=cautious), w, 200, closure=False)[-1])
    assert ends == pytest.approx([1.5, 3.0], abs=0.05)  # argmin of ½(w − 3)² + ½w², and of ½(w − 3)²


def test_decay_like_the_learning_rate_is_the_corrected_one() -> None:
    """w ← (1 − η·λ·η/η_max)·w − η·update (arXiv:2506.02285), from the learning rates of the schedule alone."""
    path: list[tuple[float, float]] = []
    make = partial(SGDW, lr=0.2, weight_decay=0.5)
    schedule = partial(WarmupDecay, warmup=0.3)
    classifier = ImageClassifier(SmallResNet(width=4), make, schedule, decay_schedule=LikeLearningRate())
    head = dict(classifier.network.named_parameters())["head.bias"]
    clip = ImageClassifier.configure_gradient_clipping

    def recorded(self: ImageClassifier, optimizer: Any, **options: Any) -> None:
        clip(self, optimizer, **options)
        head.grad = torch.zeros_like(head)
        lr, before = optimizer.param_groups[0]["lr"], head.detach().clone()
        optimizer.register_step_post_hook(lambda *_: path.append((lr, (head.detach() / before)[0].item())))

    torch.nn.init.ones_(head)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageClassifier, "configure_gradient_clipping", recorded)
        trainer(1, limit_train_batches=5, limit_val_batches=0).fit(classifier, Digits())
    rates = list(dict(path))
    first = dict(reversed(path))  # hooks of earlier steps are called again
    assert len(rates) == 5
    for lr, factor in first.items():
        assert factor == pytest.approx(1 - lr * 0.5 * lr / max(rates), rel=1e-5)


@pytest.mark.parametrize(("momentum", "nesterov", "accumulate"), itertools.product([0.0, 0.9], [False, True], [1, 3]))
def test_l2_equals_weight_decay(momentum: float, nesterov: bool, accumulate: int) -> None:
    """20 steps in float64 with two parameter groups, with and without gradient accumulation, to 1e-12."""
    if nesterov and not momentum:
        pytest.skip("Nesterov needs momentum")
    results = []
    for penalized in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).double()
        groups: list[dict[str, Any]] = [
            {"params": network[:2].parameters()},
            {"params": network[2:].parameters(), "lr": 0.02},
        ]
        decay = 0.0 if penalized else 0.03
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=momentum, nesterov=nesterov, weight_decay=decay)
        regularizer = Regularizer(network, {"l2": L2(0.03, "all")} if penalized else {})
        for _ in range(20):
            optimizer.zero_grad()
            for _ in range(accumulate):
                logits = network(torch.randn(6, 3, 8, 8, dtype=torch.double))
                (F.cross_entropy(logits, torch.randint(0, 5, (6,))) / accumulate).backward()  # type: ignore[no-untyped-call]
            regularizer.add_gradients(0.0, 1.0)
            optimizer.step()
        results.append(torch.cat([w.detach().flatten() for w in network.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_the_lambda_of_the_seed_is_half() -> None:
    """Autograd on λ·Σw², as the seed and Keras write it, against L2 with 2λ."""
    w = torch.randn(4, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(0.01 * w.square().sum(), w)
    torch.testing.assert_close(0.02 * L2(0.02).gradients([w.detach()])[0], expected)


def fitted_weights(optimizer: Any, **options: Any) -> Tensor:
    torch.manual_seed(0)
    classifier = ImageClassifier(SmallResNet(width=4), optimizer, **options)
    limits = {"limit_train_batches": 5, "limit_val_batches": 1, "precision": "64-true"}
    trainer(2, **limits).fit(classifier, Digits(seed=1))
    return torch.cat([w.detach().flatten() for w in classifier.network.parameters()])


def test_in_the_trainer_l2_equals_weight_decay() -> None:
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    torch.testing.assert_close(
        fitted_weights(sgd, penalties={"l2": L2(0.01, "all")}),
        fitted_weights(partial(sgd, weight_decay=0.01)),
        rtol=1e-10,
        atol=1e-12,
    )


def test_in_the_trainer_sgdw_uses_the_gradient_at_undecayed_weights() -> None:
    class ReferenceSGDW(torch.optim.SGD):
        """SGDW without momentum, which always computes the gradient first."""

        def step(self, closure: Any = None) -> Any:
            loss = closure()
            with torch.no_grad():
                for w in self.param_groups[0]["params"]:
                    w.copy_((1 - 0.05 * 0.5) * w - 0.05 * w.grad)
            return loss

    weights, expected = (
        fitted_weights(partial(SGDW, lr=0.05, weight_decay=0.5)),
        fitted_weights(partial(ReferenceSGDW, lr=0.05)),
    )
    torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-12)


def test_step_size_of_the_proximal_step() -> None:
    w = [torch.zeros(1)]
    assert step_size(*_first(torch.optim.SGD(w, 0.1))) == pytest.approx(0.1)
    assert step_size(*_first(torch.optim.SGD(w, 0.1, 0.9))) == pytest.approx(1.0)
    assert step_size(*_first(torch.optim.SGD(w, 0.1, 0.9, 0.5))) == pytest.approx(0.5)
    assert step_size(*_first(torch.optim.AdamW(w, 0.1))) == pytest.approx(0.1)


def _first(optimizer: torch.optim.Optimizer) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    return optimizer, optimizer.param_groups[0]
