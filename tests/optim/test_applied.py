"""Applied penalties: they reach scikit-learn's solutions, act at the right moment, and work in any precision."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from sklearn.linear_model import ElasticNet as SklearnElasticNet
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from regularization import (
    L1,
    L2,
    L2EMA,
    L2SP,
    Cosine,
    Digits,
    ElasticNet,
    GroupLasso,
    ImageClassifier,
    LikeLearningRate,
    Linear,
    Penalty,
    SmallResNet,
    Steps,
    StrengthSchedule,
    WarmupDecay,
    WhitenedNet,
)
from regularization.cli.main import main
from regularization.errors import UserError
from regularization.optim.applied import Regularizer, select_parameters
from tests.conftest import BASE, CONFIGS
from tests.models.test_classifier import trainer
from tests.training.test_command import interrupt_at

MOMENTA = [
    {"momentum": 0.0},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.5},
]


def problem() -> tuple[Tensor, Tensor]:
    """100 samples of 50 features, 8 of which matter."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 50))
    y = x[:, :8] @ rng.standard_normal(8) + 0.1 * rng.standard_normal(100)
    return torch.from_numpy(x), torch.from_numpy(y)


def solve(penalty: Penalty, outputs: int = 1, steps: int = 6000, **sgd: Any) -> Tensor:
    """argmin of 1/(2n)·‖y − Xw‖² + λ·R(w), by the steps of Regularizer."""
    x, y = problem()
    targets = torch.stack([y, 2 * y, 0.1 * y][:outputs], dim=1)
    model = nn.Linear(50, outputs, bias=False).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, **sgd)
    regularizer = Regularizer(model, {"p": penalty})
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 / len(x) * (model(x) - targets).square().sum()).backward()
        regularizer.add_gradients(0.0, 1.0)
        optimizer.step()
        regularizer.apply_prox(optimizer, 0.0, 1.0)
    return model.weight.detach()


@pytest.mark.parametrize("sgd", MOMENTA)
def test_l1_reaches_the_lasso(sgd: dict[str, Any]) -> None:
    x, y = problem()
    lasso = Lasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy())
    w = solve(L1(0.1), **sgd)[0].numpy()
    np.testing.assert_allclose(w, lasso.coef_, atol=1e-6)
    assert ((w == 0) == (lasso.coef_ == 0)).all()
    assert (w == 0).sum() > 30


@pytest.mark.parametrize("sgd", MOMENTA)
def test_elastic_net_reaches_the_solution_of_scikit_learn(sgd: dict[str, Any]) -> None:
    x, y = problem()
    reference = SklearnElasticNet(alpha=0.2, l1_ratio=0.3, fit_intercept=False, tol=1e-12, max_iter=100_000)
    expected = reference.fit(x.numpy(), y.numpy()).coef_
    np.testing.assert_allclose(solve(ElasticNet(0.2, 0.3), **sgd)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("sgd", MOMENTA)
def test_group_lasso_satisfies_its_optimality_conditions(sgd: dict[str, Any]) -> None:
    x, y = problem()
    strength = 0.3
    w = solve(GroupLasso(strength), outputs=3, **sgd)
    targets = torch.stack([y, 2 * y, 0.1 * y], dim=1)
    gradient = ((x @ w.T - targets).T @ x) / len(x)
    bound = strength * np.sqrt(50)
    zero = w.norm(dim=1) == 0
    assert zero.any()
    assert (~zero).any()
    assert (gradient[zero].norm(dim=1) <= bound).all()
    directions = w[~zero] / w[~zero].norm(dim=1, keepdim=True)
    torch.testing.assert_close(gradient[~zero], -bound * directions, rtol=1e-6, atol=1e-6)


def test_a_subgradient_gives_no_zeros() -> None:
    assert (solve(L1(0.1, proximal=False), steps=2000) == 0).sum() == 0


def test_group_lasso_sets_filters_without_a_norm_layer_to_zero() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    penalty = GroupLasso(0.02, ["0.weight"])
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    trainer(3, limit_val_batches=1).fit(ImageClassifier(network, sgd, penalties={"group": penalty}), Digits())
    norms = next(network.parameters()).flatten(1).norm(dim=1)
    assert 0 < (norms == 0).sum() < 16


class CountingL2(L2):
    """Counts the calls of ``gradients``."""

    calls = 0

    def gradients(self, weights: list[Tensor]) -> list[Tensor]:
        self.calls += 1
        assert not torch.is_autocast_enabled("cpu")
        assert all(w.dtype == torch.float32 for w in weights)
        return super().gradients(weights)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_gradients_are_added_once_per_actual_step_in_float32(precision: str) -> None:
    penalty = CountingL2(0.1)
    fitted = trainer(1, limit_train_batches=6, accumulate_grad_batches=3, limit_val_batches=1, precision=precision)
    classifier = ImageClassifier(SmallResNet(width=4), penalties={"l2": penalty, "l1": L1(1e-3)})
    fitted.fit(classifier, Digits())
    assert fitted.global_step == 2
    assert penalty.calls == 2


def test_a_skipped_step_takes_no_proximal_step() -> None:
    """16-bit mixed precision skips steps whose gradients overflow, as they do here."""
    torch.manual_seed(0)
    classifier = ImageClassifier(SmallResNet(width=4), penalties={"l1": L1(1.0)})
    before = {name: w.detach().clone() for name, w in classifier.network.named_parameters()}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer(1, limit_train_batches=1, limit_val_batches=0, num_sanity_val_steps=0, plugins=[plugin]).fit(
        classifier, Digits()
    )
    assert scaler.get_scale() < 2.0**100  # the step was skipped
    for name, w in classifier.network.named_parameters():
        assert torch.equal(w, before[name])


def test_clipping_applies_to_the_gradient_of_the_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Penalties are added after gradient clipping, so that L2 stays equal to weight decay."""
    results = []
    for options in ({"penalties": {"l2": L2(0.5, "all")}}, {}):
        torch.manual_seed(0)
        decay = 0.0 if options else 0.5
        sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=decay)
        classifier = ImageClassifier(SmallResNet(width=4), sgd, **options)  # type: ignore[arg-type]
        trainer(1, limit_train_batches=5, limit_val_batches=1, gradient_clip_val=0.01).fit(classifier, Digits(seed=0))
        results.append(torch.cat([w.detach().flatten() for w in classifier.network.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Linear(1, 0), lambda t, _: 1 - t),
        (Linear(0, 2), lambda t, _: 2 * t),
        (Cosine(1, 0.5), lambda t, _: 0.5 + 0.25 * (1 + np.cos(np.pi * t))),
        (Steps([0.5], 0.1), lambda t, _: 0.1 if t >= 0.5 else 1.0),
        (LikeLearningRate(), lambda _, lr_ratio: lr_ratio),
    ],
)
def test_schedules_of_lambda(schedule: StrengthSchedule, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float]] = []
    add = Regularizer.add_gradients

    def recorded(self: Regularizer, time: float, lr_ratio: float) -> None:
        seen.append((self.strength("l2", time, lr_ratio), fitted.optimizers[0].param_groups[0]["weight_decay"]))
        add(self, time, lr_ratio)

    sgd = partial(torch.optim.SGD, lr=0.1, weight_decay=0.02)
    make = partial(WarmupDecay, warmup=0.4)
    penalties: dict[str, Penalty | None] = {"l2": L2(0.3, schedule=schedule)}
    classifier = ImageClassifier(
        SmallResNet(width=4), sgd, make, penalties=penalties, decay_schedule=schedule, decay="weights"
    )
    monkeypatch.setattr(Regularizer, "add_gradients", recorded)
    fitted = trainer(2, limit_train_batches=5, limit_val_batches=1)
    fitted.fit(classifier, Digits())
    rates = [min((s + 1) / 11 / 0.4, 0.5 * (1 + np.cos(np.pi * max(0.0, (s + 1) / 11 - 0.4) / 0.6))) for s in range(10)]
    factors = [expected(step / 10, rate / max(rates)) for step, rate in enumerate(rates)]
    np.testing.assert_allclose(seen, [(0.3 * factor, 0.02 * factor) for factor in factors], rtol=1e-9, atol=1e-12)
    assert fitted.optimizers[0].param_groups[1]["weight_decay"] == 0


@pytest.mark.parametrize("make", [partial(Linear, end=-0.1), partial(Cosine, -1.0), partial(Steps, gamma=-1.0)])
def test_schedules_reject_negative_factors(make: Any) -> None:
    with pytest.raises(UserError, match=r"a factor of λ must be a number of at least 0, not -"):
        make()
    with pytest.raises(UserError, match="at must hold times between 0 and 1"):
        Steps([2.0])


def test_a_continued_run_has_the_same_lambda_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """With schedules, L2SP, L2EMA, EMA and Lookahead, the run has the same bits as an uninterrupted one."""
    overlays = ("l1", "l2sp", "l2ema", "decay_schedule", "ema", "lookahead")
    Path("more.yaml").write_text("model: {penalties: {l1: {init_args: {schedule: {class_path: Cosine}}}}}")
    configs = [BASE, *(CONFIGS / "with" / f"{name}.yaml" for name in overlays), "more.yaml"]
    args = ["fit", *(part for config in configs for part in ("--config", str(config))), "--trainer.accelerator", "cpu"]
    args += ["--trainer.max_epochs", "4", "--trainer.limit_train_batches", "4", "--model.network.width", "4"]
    args += ["--model.decay", "weights"]
    strengths: list[list[float]] = [[]]
    strength = Regularizer.strength

    def recorded(self: Regularizer, name: str, time: float, lr_ratio: float) -> float:
        strengths[-1].append(strength(self, name, time, lr_ratio))
        return strengths[-1][-1]

    monkeypatch.setattr(Regularizer, "strength", recorded)
    main(args)
    (first,) = Path("runs").glob("*/version_0/checkpoints/last.ckpt")
    strengths.append([])
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(8, patch)
        with pytest.raises(SystemExit):
            main(args)
    main([*args, "--ckpt_path", "last"])
    second = first.parents[2] / "version_1" / "checkpoints" / "last.ckpt"
    undisturbed, continued = (torch.load(path, weights_only=True) for path in (first, second))
    for part in ("state_dict", "current_model_state", "regularizer"):
        torch.testing.assert_close(continued[part], undisturbed[part], rtol=0, atol=0)
    assert strengths[0] == strengths[1]


def test_the_origin_of_l2sp_is_where_training_starts() -> None:
    classifier = ImageClassifier(SmallResNet(width=4), penalties={"sp": L2SP(0.1)})
    torch.nn.init.ones_(classifier.network.head.weight)  # type: ignore[arg-type, union-attr]
    trainer(1, limit_train_batches=2, limit_val_batches=1).fit(classifier, Digits())
    origin = classifier.regularizer.state_dict()["sp"]
    assert (origin["head.weight"] == 1).all()


@pytest.mark.parametrize("sgd", MOMENTA[:2])
def test_the_pull_towards_the_average_has_its_closed_form(sgd: dict[str, Any]) -> None:
    """Step by step against NumPy; under a constant gradient, the weights drift as slowly as the docstring says."""
    lr, strength, decay, momentum = 0.05, 0.4, 0.9, sgd["momentum"]
    network = nn.Linear(4, 3, bias=False).double()
    slope = torch.randn(3, 4, dtype=torch.double)
    w = average = network.weight.detach().numpy().copy()
    buffer, drift = np.zeros_like(w), np.zeros_like(w)
    penalty = L2EMA(strength, decay)
    regularizer, optimizer = Regularizer(network, {"p": penalty}), torch.optim.SGD(network.parameters(), lr=lr, **sgd)
    regularizer.start()
    for _ in range(300):
        network.weight.grad = slope.clone()
        regularizer.add_gradients(0.0, 1.0)
        optimizer.step()
        regularizer.update_references()
        buffer = momentum * buffer + slope.numpy() + strength * (w - average)
        drift, w = -lr * buffer, w - lr * buffer
        average = decay * average + (1 - decay) * w
        np.testing.assert_allclose(network.weight.detach().numpy(), w, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(regularizer.state_dict()["p"]["weight"].numpy(), average, rtol=1e-12, atol=1e-12)
    slower = 1 + lr * strength * decay / ((1 - momentum) * (1 - decay))
    np.testing.assert_allclose(drift, -lr / (1 - momentum) * slope.numpy() / slower, rtol=1e-6)
    value = regularizer.values(0.0, 1.0)["p"].item()
    assert value == pytest.approx(0.5 * strength * np.square(w - average).sum(), rel=1e-12)


def test_the_average_of_16_bit_weights_keeps_small_changes() -> None:
    network = nn.Linear(1, 1, bias=False).bfloat16()
    regularizer = Regularizer(network, {"p": L2EMA(1.0, 0.999)})
    nn.init.ones_(network.weight)
    regularizer.start()
    nn.init.constant_(network.weight, 1.5)
    for _ in range(5):
        regularizer.update_references()
    assert regularizer.state_dict()["p"]["weight"].item() == pytest.approx(1.5 - 0.5 * 0.999**5, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timescale_epochs": 0.0}, "timescale_epochs must be above 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be between 0 and 1"),
        ({"timescale_epochs": 5.0, "optimizer": torch.optim.Adam}, "timescale_epochs has no formula for Adam"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageClassifier(SmallResNet(width=4), **options)


def test_frozen_parameters_are_not_selected() -> None:
    # The filters of its whitening layer and the scales of its norm layers are frozen.
    selected = select_parameters(WhitenedNet(), "weights", "l2")
    assert "whitening.weight" not in selected
    assert len(selected) == 7
    with pytest.raises(UserError, match="matches none"):
        select_parameters(WhitenedNet(), "scales", "slimming")


def test_the_last_step_of_an_epoch_with_fewer_batches_has_a_smaller_gradient_and_the_whole_penalty() -> None:
    """Lightning divides each loss by accumulate_grad_batches; docs/regularizers.md describes the consequences."""
    seen: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = []

    class Recorded(ImageClassifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            losses.append(list(torch.autograd.grad(loss, list(self.parameters()), retain_graph=True)))
            return loss

        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            before = [w.grad.clone() for w in self.parameters() if w.grad is not None]
            super().configure_gradient_clipping(*args, **kwargs)
            after = [w.grad - gradient for w, gradient in zip(self.parameters(), before, strict=True)]  # type: ignore[operator]
            seen.append((before, after, [w.detach().clone() for w in self.parameters()]))

    losses: list[list[Tensor]] = []
    torch.manual_seed(0)
    sgd = partial(torch.optim.SGD, lr=0.05, weight_decay=0.0)
    classifier = Recorded(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), sgd, penalties={"l2": L2(0.5, "all")})
    fitted = trainer(1, limit_train_batches=4, accumulate_grad_batches=3, limit_val_batches=1)
    fitted.fit(classifier, Digits())
    assert len(losses) == 4
    assert len(seen) == 2
    for (gradient, addition, weights), part in zip(seen, (losses[:3], losses[3:]), strict=True):
        torch.testing.assert_close(gradient, [sum(group) / 3 for group in zip(*part, strict=True)])
        torch.testing.assert_close(addition, [0.5 * w for w in weights], rtol=1e-4, atol=1e-6)
