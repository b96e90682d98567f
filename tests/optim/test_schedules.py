import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from regularization import SchedulerSequence, SmallResNet, WarmupDecay
from regularization.errors import UserError
from regularization.optim.factory import OptimizerFactory
from regularization.optim.hyperparameters import replay_schedule

Maker = Callable[..., Any]


@given(st.integers(1, 60), st.floats(0, 1), st.sampled_from(["linear", "cosine"]))
def test_the_learning_rates_have_their_closed_form(total: int, warmup: float, decay: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = WarmupDecay(optimizer, total, warmup, decay)  # type: ignore[arg-type]
    for step in range(total):
        time = (step + 1) / (total + 1)
        if time < warmup:
            factor = time / warmup
        else:
            elapsed = (time - warmup) / (1 - warmup) if warmup < 1 else 0.0
            factor = 1 - elapsed if decay == "linear" else (1 + math.cos(math.pi * elapsed)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * factor, abs=1e-12)
        assert optimizer.param_groups[0]["lr"] > 0
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("total", "warmup"), [(10, -0.1), (10, 1.1), (0, 0.1), (None, 0.1)])
def test_invalid_arguments_are_rejected(total: int | None, warmup: float) -> None:
    with pytest.raises(ValueError, match="must"):
        WarmupDecay(torch.optim.SGD([torch.zeros(1)], lr=1.0), total, warmup)


def sgd() -> SGD:
    """An optimizer with two groups of different learning rates."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.3, 0.02)]
    return SGD(groups, lr=1.0, momentum=0.9)


def rates_of(optimizer: SGD, scheduler: LRScheduler, steps: int) -> list[list[float]]:
    """The learning rates of both groups before each step."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("makers", "milestones", "by_hand", "ends"),
    [
        (
            [partial(LinearLR, start_factor=0.1, total_iters=-1), partial(CosineAnnealingLR, T_max=-1)],
            [0.1],
            [partial(LinearLR, start_factor=0.1, total_iters=4), partial(CosineAnnealingLR, T_max=36)],
            [4],
        ),
        (
            [partial(LinearLR, total_iters=3), ConstantLR, partial(PolynomialLR, total_iters=-1, power=2.0)],
            [0.25, 0.5],
            [partial(LinearLR, total_iters=3), ConstantLR, partial(PolynomialLR, total_iters=20, power=2.0)],
            [10, 20],
        ),
        (
            [
                partial(CosineAnnealingWarmRestarts, T_0=5),
                partial(StepLR, step_size=7),
                partial(WarmupDecay, warmup=0.5),
            ],
            [0.4, 0.75],
            [
                partial(CosineAnnealingWarmRestarts, T_0=5),
                partial(StepLR, step_size=7),
                partial(WarmupDecay, warmup=0.5, total_steps=10),
            ],
            [16, 30],
        ),
        # A scheduler takes at least one step.
        (
            [partial(LinearLR, total_iters=-1), ConstantLR, CosineAnnealingLR],
            [0.001, 0.002],
            [partial(LinearLR, total_iters=1), ConstantLR, partial(CosineAnnealingLR, T_max=38)],
            [1, 2],
        ),
        ([partial(CosineAnnealingLR, T_max=-1)], [], [partial(CosineAnnealingLR, T_max=40)], []),
    ],
)
def test_a_sequence_is_that_of_torch(
    makers: list[Maker], milestones: list[float], by_hand: list[Maker], ends: list[int]
) -> None:
    """They are compared step by step, also after continuing from the state at any step."""
    reference = sgd()
    expected = rates_of(reference, SequentialLR(reference, [make(reference) for make in by_hand], ends), 40)
    optimizer = sgd()
    assert rates_of(optimizer, SchedulerSequence(optimizer, makers, milestones, 40), 40) == expected
    for stop in (1, *ends, *(end - 1 for end in ends), 39):
        first, second = sgd(), sgd()
        interrupted, continued = (SchedulerSequence(it, makers, milestones, 40) for it in (first, second))
        rates_of(first, interrupted, stop)
        second.load_state_dict(first.state_dict())
        continued.load_state_dict(interrupted.state_dict())
        assert rates_of(second, continued, 40 - stop) == expected[stop:]


@pytest.mark.parametrize(
    ("makers", "milestones", "message"),
    [
        ([ConstantLR, ConstantLR], [], "2 schedulers need 1 milestones, not 0"),
        ([], [], "0 schedulers need 0 milestones|at least one scheduler"),
        ([ConstantLR, ConstantLR], [100], r"milestones must be increasing fractions between 0 and 1, not \[100\]"),
        ([ConstantLR, ConstantLR], [math.nan], "milestones must be increasing fractions between 0 and 1"),
        ([ConstantLR] * 3, [0.5, 0.2], "milestones must be increasing fractions between 0 and 1"),
        ([ConstantLR] * 3, [0.5, 0.5], "milestones must be increasing fractions between 0 and 1"),
        ([ConstantLR, ReduceLROnPlateau], [0.5], "ReduceLROnPlateau depends on a metric"),
        ([ConstantLR, partial(OneCycleLR, max_lr=0.1)], [0.5], "OneCycleLR sets a learning rate of its own"),
        ([partial(WarmupDecay, warmup=2.0), ConstantLR], [0.5], "warmup must be between 0 and 1"),
    ],
)
def test_invalid_sequences_are_rejected(makers: list[Maker], milestones: list[float], message: str) -> None:
    maker = partial(SchedulerSequence, schedulers=makers, milestones=milestones)
    with pytest.raises(UserError, match=message):
        OptimizerFactory(SmallResNet(width=4), partial(SGD, lr=0.1), maker, "all", None, None)
    with pytest.raises(ValueError, match="total_steps must be at least 1, not None"):
        SchedulerSequence(sgd(), [ConstantLR], [])


def test_the_peak_and_tau_are_those_of_a_sequence() -> None:
    """λ is set from τ at the highest learning rate, which here is reached at the end of the first scheduler."""
    linear = partial(LinearLR, start_factor=0.1, end_factor=0.5, total_iters=-1)
    maker = partial(SchedulerSequence, schedulers=[linear, partial(PolynomialLR, total_iters=-1)], milestones=[0.5])
    factory = OptimizerFactory(SmallResNet(width=4), partial(SGD, lr=0.2, momentum=0.9), maker, "all", None, 4.0)
    factory.prepare(40, 10)
    optimizer, scheduler = factory.build()
    assert isinstance(scheduler, LRScheduler)
    assert factory.interval(scheduler) == "step"
    assert factory.peak_lr == 0.2  # where the second scheduler starts
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.1 / (0.2 * 4 * 10))
    assert factory.tau(optimizer, 0) == pytest.approx(4.0)
    ratios = []
    for step in range(40):
        ratios.append(factory.progress(step, optimizer)[1])
        replay_schedule(scheduler, 1)
    expected = [0.1 + 0.4 * step / 20 for step in range(20)] + [1 - step / 20 for step in range(20)]
    assert ratios == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("maker", "interval"),
    [(partial(LinearLR, total_iters=-1), "step"), (partial(LinearLR, total_iters=9), "epoch"), (LinearLR, "epoch")],
)
def test_total_iters_of_a_single_scheduler(maker: Maker, interval: str) -> None:
    """-1 becomes the number of steps; torch's own default stays."""
    factory = OptimizerFactory(SmallResNet(width=4), partial(SGD, lr=0.2), maker, "all", None, None)
    factory.prepare(40, 10)
    _, scheduler = factory.build()
    assert isinstance(scheduler, LinearLR)
    assert factory.interval(scheduler) == interval
    assert scheduler.total_iters == {"step": 40, "epoch": 5 if maker is LinearLR else 9}[interval]
