"""Penalties by autograd, compared with closed forms for penalties on weights and references for those on functions."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from lightning import seed_everything
from torch import Tensor, nn
from torchvision.models import GoogLeNet

from regularization import (
    L1,
    L2,
    SAM,
    ConfidencePenalty,
    Digits,
    FunctionPenalty,
    GradientPenalty,
    ImageClassifier,
    JacobianPenalty,
    Linear,
    LogitPenalty,
    Orthogonal,
    Penalty,
    RDrop,
    SmallResNet,
    ZLoss,
)
from regularization.callbacks.parameter_report import ParameterReport
from regularization.cli.main import main
from regularization.data.sampling import Batch
from regularization.errors import UserError
from tests.conftest import BASE, CONFIGS
from tests.models.test_classifier import trainer
from tests.training.test_command import interrupt_at

FUNCTIONS = [
    GradientPenalty(1.0),
    JacobianPenalty(1.0),
    JacobianPenalty(1.0, projections=3),
    ConfidencePenalty(1.0),
    LogitPenalty(1.0),
    ZLoss(1.0),
]


class OfWeights(FunctionPenalty):
    """A penalty on weights, written as a part of the loss."""

    def __init__(self, penalty: Penalty) -> None:
        super().__init__(penalty.strength, penalty.schedule)
        self.penalty = penalty

    def loss(self, batch: Batch, logits: Tensor, network: nn.Module) -> Tensor:
        return self.penalty.value([w for w in network.parameters() if w.ndim > 1])


def closed_forms() -> list[Penalty]:
    schedule = Linear(1, 0.5)
    return [L1(0.01, schedule=schedule, proximal=False), L2(0.1, schedule=schedule), Orthogonal(0.1, schedule=schedule)]


@pytest.mark.parametrize("penalty", closed_forms(), ids=lambda it: type(it).__name__)
def test_derived_gradients_are_those_of_the_closed_form(penalty: Penalty) -> None:
    weights = [torch.randn(shape, dtype=torch.double) for shape in ((3, 5), (5, 3), (4, 2, 3, 3), (7,))]
    with torch.no_grad():
        derived = Penalty.gradients(penalty, weights)
    for one, two in zip(derived, penalty.gradients(weights), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
@pytest.mark.parametrize("penalty", closed_forms(), ids=lambda it: type(it).__name__)
def test_the_loss_trains_as_the_closed_form_does(penalty: Penalty, precision: str) -> None:
    """This holds with a schedule, accumulated batches, momentum, and rounding."""
    results = []
    for given in (penalty, OfWeights(penalty)):
        seed_everything(0)
        sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
        classifier = ImageClassifier(SmallResNet(width=4), sgd, penalties={"it": given})
        options: dict[str, Any] = {"limit_train_batches": 6, "limit_val_batches": 1, "precision": precision}
        fitted = trainer(1, accumulate_grad_batches=2, **options)
        fitted.fit(classifier, Digits(batch_size=32, seed=0))
        results.append(torch.cat([w.detach().flatten() for w in classifier.network.parameters()]))
        assert fitted.callback_metrics["penalty/it"] > 0
    moved = (results[0] - results[1]).norm() / results[0].norm()
    assert moved < (1e-10 if precision == "64-true" else 1e-3)


def linear_batch() -> tuple[nn.Linear, Batch, Tensor]:
    """A linear network with orthogonal rows of norm 3, a batch for it, and its logits; in double."""
    torch.manual_seed(0)
    network = nn.Linear(12, 4).double()
    with torch.no_grad():
        network.weight.copy_(3 * torch.linalg.qr(torch.randn(12, 4, dtype=torch.double))[0].T)
    images = torch.randn(5, 12, dtype=torch.double, requires_grad=True)
    batch = Batch(images, torch.tensor([0, 1, 2, 3, 0]), torch.arange(5), 1.0)
    return network, batch, network(images)


def test_values_of_a_linear_network() -> None:
    network, batch, logits = linear_batch()
    w, z = (x.detach().numpy() for x in (network.weight, logits))
    p = scipy.special.softmax(z, axis=1)
    expected = {
        GradientPenalty: np.square((p - np.eye(4)[batch.labels]) @ w).sum(1).mean(),
        JacobianPenalty: 0.5 * np.square(w).sum(),  # any direction gives it, as the rows are orthogonal
        ConfidencePenalty: np.log(4) - scipy.stats.entropy(p, axis=1).mean(),
        LogitPenalty: np.square(z).sum(1).mean(),
        ZLoss: np.square(scipy.special.logsumexp(z, axis=1)).mean(),
    }
    for penalty in FUNCTIONS:
        value = penalty.loss(batch, logits, network)
        assert value.item() == pytest.approx(expected[type(penalty)], rel=1e-12), type(penalty).__name__


def test_projections_are_unbiased() -> None:
    network, batch, _ = linear_batch()
    torch.nn.init.normal_(network.weight)
    value = JacobianPenalty(1.0, projections=400).loss(batch, network(batch.images), network)
    assert value.item() == pytest.approx(0.5 * network.weight.square().sum().item(), rel=0.05)


def test_r_drop_is_the_symmetric_divergence_of_two_passes() -> None:
    """The value is compared with SciPy for the same masks, and the gradient with finite differences."""
    linear = nn.Linear(12, 4)
    network = nn.Sequential(nn.Dropout(0.5), linear).double()
    images, labels = torch.randn(5, 12, dtype=torch.double), torch.arange(5) % 4
    batch = Batch(images, labels, torch.arange(5), 1.0)

    def value() -> Tensor:
        torch.manual_seed(1)
        return RDrop(1.0).loss(batch, network(images), network)

    loss = value()
    torch.manual_seed(1)
    p, q = (scipy.special.softmax(network(images).detach().numpy(), axis=1) for _ in range(2))
    expected = 0.5 * (scipy.special.rel_entr(p, q) + scipy.special.rel_entr(q, p)).sum(axis=1).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert expected > 0.01
    (gradient,) = torch.autograd.grad(loss, linear.weight)
    direction, values = torch.randn_like(gradient), []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            linear.weight.add_(step * direction)
        values.append(value().item())
    assert (values[0] - values[1]) / 2e-5 == pytest.approx((gradient * direction).sum().item(), rel=1e-5)


def test_r_drop_of_a_network_without_dropout_is_0_and_changes_no_statistics() -> None:
    network = GoogLeNet(num_classes=3, init_weights=False).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = Batch(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]), torch.arange(2), 1.0)
    logits = network(batch.images)[0]  # without those of the auxiliary classifiers
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with pytest.warns(UserWarning, match="RDrop has no effect: two passes of the network agree; it needs dropout"):
        assert RDrop(1.0).loss(batch, logits, network).item() == pytest.approx(0, abs=1e-9)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_r_drop_with_sharpness_in_16_bits() -> None:
    network = SmallResNet(width=4, dropout=0.5)
    classifier = ImageClassifier(network, penalties={"r": RDrop(1.0)}, sharpness=SAM())
    fitted = trainer(1, limit_train_batches=2, limit_val_batches=1, precision="bf16-true")
    fitted.fit(classifier, Digits())
    assert 0 < fitted.callback_metrics["penalty/r"].item() < 1


@pytest.mark.parametrize("penalty", FUNCTIONS, ids=lambda it: type(it).__name__)
def test_gradients_by_finite_differences(penalty: FunctionPenalty) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5)).double()
    images = torch.randn(6, 3, 4, 4, dtype=torch.double, requires_grad=True)
    batch = Batch(images, torch.softmax(torch.randn(6, 5, dtype=torch.double), 1), torch.arange(6), 1.0)  # mixed
    parameters = list(network.parameters())
    directions = {name: torch.randn_like(w) for name, w in network.named_parameters()}

    def value(step: float) -> Tensor:
        torch.manual_seed(1)
        moved = {name: w + step * directions[name] for name, w in network.named_parameters()}
        return penalty.loss(batch, torch.func.functional_call(network, moved, images), network)

    gradients = torch.autograd.grad(value(0.0), parameters, materialize_grads=True)
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions.values(), strict=True))
    assert (value(1e-5) - value(-1e-5)).item() / 2e-5 == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("penalty", [it for it in FUNCTIONS if not isinstance(it, JacobianPenalty)])
def test_parts_of_a_batch_add_up(penalty: FunctionPenalty) -> None:
    """As in the processes of DDP, the mean of weight × R of the parts is R of the batch."""
    network, batch, logits = linear_batch()
    whole = penalty.loss(batch, logits, network)
    parts = []
    for rows in (slice(0, 3), slice(3, 5)):
        part = batch._replace(images=batch.images[rows], labels=batch.labels[rows])
        parts.append((part.images.shape[0] / 5) * penalty.loss(part, network(part.images), network))
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


def test_a_continued_run_has_the_same_bits() -> None:
    """The run is stopped in the middle of an epoch, with random directions, dropout and a mean over the epoch."""
    Path("more.yaml").write_text("model: {penalties: {jacobian: {init_args: {schedule: {class_path: Cosine}}}}}")
    overlays = ("jacobian", "confidence_penalty", "dropout", "r_drop")
    configs = [BASE, *(CONFIGS / "with" / f"{name}.yaml" for name in overlays), "more.yaml"]
    args = ["fit", *(part for config in configs for part in ("--config", str(config))), "--trainer.accelerator", "cpu"]
    args += ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4", "--model.network.width", "4"]
    main(args)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(6, patch)
        with pytest.raises(SystemExit):
            main(args)
    main([*args, "--ckpt_path", "last"])
    (folder,) = Path("runs").iterdir()
    runs = [folder / f"version_{number}" for number in (0, 1)]
    first, second = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs)
    torch.testing.assert_close(second["state_dict"], first["state_dict"], rtol=0, atol=0)
    rows = [[line.split(",") for line in (run / "metrics.csv").read_text().splitlines()] for run in runs]
    columns = [index for index, name in enumerate(rows[0][0]) if name.startswith("penalty/")]
    assert len(columns) == 3
    assert [[row[c] for c in columns] for row in rows[0]] == [[row[c] for c in columns] for row in rows[1]]


def test_no_strength_changes_no_bit() -> None:
    results = []
    choices: list[dict[str, Penalty | None]] = [{}, {"gradient": GradientPenalty(0.0), "z": ZLoss(0.0)}]
    for penalties in choices:
        seed_everything(0)
        classifier = ImageClassifier(SmallResNet(width=4), penalties=penalties)
        fitted = trainer(1, limit_train_batches=3, limit_val_batches=1)
        fitted.fit(classifier, Digits(batch_size=32, seed=0))
        results.append(classifier.state_dict())
    assert fitted.callback_metrics["penalty/z"] == 0
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_the_report_says_that_it_is_part_of_the_loss(capsys: pytest.CaptureFixture[str]) -> None:
    classifier = ImageClassifier(SmallResNet(width=4), penalties={"z": ZLoss(0.5)})
    trainer(1, limit_train_batches=1, limit_val_batches=1, callbacks=[ParameterReport()]).fit(classifier, Digits())
    assert capsys.readouterr().out.count("z 0.5 (loss)") == 3  # weights, scales and biases


def test_compiled_networks_and_no_projections_are_rejected() -> None:
    classifier = ImageClassifier(SmallResNet(width=4), penalties={"gradient": GradientPenalty(1.0)}, compile=True)
    with pytest.raises(UserError, match=r"add --model\.compile false"):
        trainer(1).fit(classifier, Digits())
    with pytest.raises(UserError, match="projections must be at least 1, not 0"):
        JacobianPenalty(1.0, projections=0)


def test_mixed_labels_and_short_names_by_the_command_line() -> None:
    penalty = json.dumps({"mine": {"class_path": "GradientPenalty", "init_args": {"strength": 0.1}}})
    args = ["--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    main(["fit", "--config", str(BASE), "--config", "with/mixup", "--model.penalties", penalty, *args])
    assert "penalty/mine" in (Path("runs/quickstart+mixup/version_0") / "metrics.csv").read_text()
