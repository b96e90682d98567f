from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from regularization import CIFAR10, L1, L2SP, Digits, ImageClassifier, Linear, SmallResNet, WarmupDecay
from regularization.callbacks.history import History
from regularization.callbacks.monitor import CAVEAT, Monitor, describe_run
from regularization.callbacks.parameter_report import ParameterReport
from regularization.cli.main import main
from regularization.optim.penalties import filters
from tests.conftest import rows_of
from tests.models.test_classifier import trainer
from tests.training.test_command import QUICK, RUN, interrupt_at

Row = dict[str, float]


def monitored(
    tmp_path: Path, epochs: int = 2, **options: Any
) -> tuple[list[Row], ImageClassifier, Digits, ParameterReport]:
    report = ParameterReport()
    history = History(tmp_path)
    torch.manual_seed(0)
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.01)
    classifier, data = ImageClassifier(SmallResNet(width=4, dropout=0.3), sgd, **options), Digits(flip=True)
    fitted = trainer(epochs, limit_train_batches=5, callbacks=[report, Monitor(report, history), history])
    fitted.fit(classifier, data)
    return history.rows, classifier, data, report


def test_each_metric_is_its_definition(tmp_path: Path) -> None:
    rows, classifier, data, report = monitored(tmp_path, penalties={"l1": L1(0.01)})
    row = rows[-1]
    weights = {name: w.detach() for name, w in classifier.network.named_parameters() if w.ndim > 1}
    assert row["accumulated_decay"] == pytest.approx(10 * 0.05 * 0.01 / (1 - 0.9))
    zeros = sum((w == 0).sum().item() for w in weights.values())
    assert row["sparsity"] == pytest.approx(zeros / sum(w.numel() for w in weights.values()))
    assert zeros > 0
    for name, w in weights.items():
        assert row[f"norm/{name.removesuffix('.weight')}"] == pytest.approx(np.linalg.norm(w.numpy().ravel()), rel=1e-5)
    rates = [0.05 / 0.1 / filters(weights[name])[it.filters].square().sum(1) for name, it in report.invariant.items()]
    assert row["effective_lr"] == pytest.approx(torch.cat(rates).median().item(), rel=1e-5)
    assert row["gap_accuracy"] == pytest.approx(row["clean_accuracy"] - row["val_accuracy"])
    assert row["gap_loss"] == pytest.approx(row["val_loss"] - row["clean_loss"])

    index = torch.cat([batch.indices for batch in data.clean_dataloader()])
    images, subset = data.train_set or pytest.fail("not read")
    assert len(index) == len(set(index.tolist())) == 256
    assert set(index.tolist()) <= set(subset.tolist())
    classifier.eval()
    logits = classifier(data.preprocess(images[index][0])).detach()
    assert row["clean_loss"] == pytest.approx(F.cross_entropy(logits, images.labels[index]).item(), rel=1e-4)
    assert row["clean_accuracy"] == pytest.approx((logits.argmax(1) == images.labels[index]).float().mean().item())

    images, subset = data.val_set or pytest.fail("not read")
    probabilities = classifier(data.preprocess(images[subset][0])).detach().softmax(1).numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == images.labels[subset].numpy()
    error = 0.0
    for lower in np.arange(15) / 15:
        inside = (confidence > lower) & (confidence <= lower + 1 / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert row["val_calibration_error"] == pytest.approx(error, abs=1e-4)


def test_zeros_are_those_of_the_weights_that_are_validated() -> None:
    """An average of weights that have become 0 is not 0 itself."""
    short = [*QUICK, "--trainer.limit_train_batches=4", "--trainer.max_epochs=2", "--model.penalties.l1=L1"]
    main(["fit", *short, "--model.penalties.l1.strength=0.05", "--callbacks.ema=EMA", "--callbacks.ema.decay=0.5"])
    saved = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    share = {}
    for state in ("state_dict", "current_model_state"):
        weights = [w for name, w in saved[state].items() if w.ndim > 1]
        share[state] = sum((w == 0).sum().item() for w in weights) / sum(w.numel() for w in weights)
    assert rows_of(RUN)[-1]["sparsity"] == pytest.approx(share["state_dict"])
    assert share["current_model_state"] > share["state_dict"] + 0.05


def test_the_share_of_decay_is_measured_before_clipping(tmp_path: Path) -> None:
    shares: list[float] = []
    clip = ImageClassifier.configure_gradient_clipping

    def recorded(self: ImageClassifier, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        weights = list(self.network.parameters())
        decay = 0.01 * torch.cat([w.detach().flatten() for w in weights]).norm()
        shares.append((decay / torch.cat([w.grad.flatten() for w in weights if w.grad is not None]).norm()).item())
        clip(self, optimizer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageClassifier, "configure_gradient_clipping", recorded)
        rows, *_ = monitored(tmp_path)
    assert [row["decay_share"] for row in rows] == pytest.approx([shares[0], shares[5]], rel=1e-4)


def test_a_resumed_run_accumulates_decay_as_an_uninterrupted_one() -> None:
    short = (*QUICK, "--trainer.limit_train_batches", "4", "--trainer.max_epochs", "3")
    main(["fit", *short])
    uninterrupted = [row["accumulated_decay"] for row in rows_of(RUN)]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(9, patch)
        with pytest.raises(SystemExit):
            main(["fit", *short])
    main(["fit", *short, "--ckpt_path", "last"])
    assert [row["accumulated_decay"] for row in rows_of(RUN.with_name("version_1"))] == uninterrupted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "images 90.0%, 10.5 points above the validation accuracy, norm of the weights 5"),
        (
            {"sparsity": 0.25, "gap_accuracy": -0.001},
            "0.1 points below the validation accuracy, 25.0% of the weights are",
        ),
    ],
)
def test_a_run_is_described_by_its_measurements(changes: Row, message: str) -> None:
    row = {"epoch": 1, "clean_accuracy": 0.9, "gap_accuracy": 0.105, "sparsity": 0.0, "norm/a": 3.0, "norm/b": 4.0}
    assert message in describe_run(row | changes, {})


def test_the_distance_from_the_initial_weights_is_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    origin = SmallResNet(width=4, dropout=0.3).head.weight.detach().clone()
    rows, classifier, _, report = monitored(tmp_path, penalties={"start": L2SP(0.01, ["head.weight"])})
    history = History(tmp_path)
    history.rows = rows
    *parts, caveat = Monitor(report, history).summary(classifier.trainer).splitlines()
    message = " ".join(parts)
    head: Any = classifier.network.head
    distance = np.linalg.norm((head.weight.detach() - origin).numpy())
    assert distance > 0
    assert f"distance from w₀ {distance:.3g} (start)" in message
    assert caveat.startswith("one run does not show whether regularization helps")


@pytest.mark.parametrize("strength", ["5e-7", "0.5"])
def test_a_run_ends_without_a_verdict_on_lambda(capsys: pytest.CaptureFixture[str], strength: str) -> None:
    short = ("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4")
    main(["fit", *QUICK, *short, "--model.optimizer.weight_decay", strength])
    lines = capsys.readouterr().out.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("accuracy on unaugmented"))
    *parts, caveat = lines[first : lines.index(CAVEAT) + 1]
    message = " ".join(parts)
    row = rows_of(RUN)[-1]
    gap = f"{100 * abs(row['gap_accuracy']):.1f} points "
    assert message.startswith(f"accuracy on unaugmented training images {row['clean_accuracy']:.1%}, {gap}")
    assert caveat == "one run does not show whether regularization helps: use sweep to compare runs"


def clean_images(data: Digits | CIFAR10) -> int:
    return sum(len(batch.indices) for batch in data.clean_dataloader())


@pytest.mark.parametrize(("val_size", "images"), [(None, 1437), (0.1, 256), (400, 400), (1300, 137)])
def test_as_many_clean_images_as_validation_images_are_measured(val_size: float | None, images: int) -> None:
    """At least 256 images are measured, if there are that many; all for batch norm if nothing is validated."""
    data = Digits(val_size=val_size)
    data.setup("fit")
    assert clean_images(data) == images


def test_a_shortened_validation_shortens_the_clean_one() -> None:
    data = Digits(val_size=700, eval_batch_size=100)
    fitted = trainer(1, limit_train_batches=1, limit_val_batches=3)
    fitted.fit(ImageClassifier(SmallResNet(width=4)), data)
    assert clean_images(data) == 300


@pytest.mark.parametrize(("val_size", "images"), [(3000, 3000), (20000, 5000)])
def test_at_most_5000_clean_images_are_measured(cifar_root: str, val_size: int, images: int) -> None:
    data = CIFAR10(root=cifar_root, val_size=val_size)
    data.setup("fit")
    assert clean_images(data) == images


def test_the_decay_accumulates_with_its_schedule_at_a_constant_learning_rate(tmp_path: Path) -> None:
    rows, *_ = monitored(tmp_path, decay_schedule=Linear(1.0, 0.0))
    strengths = 0.01 * (1 - np.arange(10) / 10)
    assert [row["accumulated_decay"] for row in rows] == pytest.approx(
        [(0.05 * strengths[:end] / 0.1).sum() for end in (5, 10)]
    )


class OnlyBiases(SmallResNet):
    """Trains biases and scales only, as BitFit does (Ben Zaken et al. 2022)."""

    def __init__(self, num_classes: int = 10, width: int = 4) -> None:
        super().__init__(num_classes=num_classes, width=width)
        for w in self.parameters():
            w.requires_grad = w.ndim == 1


def test_a_network_of_which_only_biases_and_scales_are_trained(capsys: pytest.CaptureFixture[str]) -> None:
    network = ["--model.network", f"{__name__}.OnlyBiases", "--data", "Digits", "--trainer.accelerator", "cpu"]
    penalty = ["--model.penalties.l1", "L1", "--model.penalties.l1.parameters", "scales"]
    penalty += ["--model.penalties.l1.strength", "0.1"]
    main(["fit", *network, *penalty, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3"])
    (row,) = rows_of(Path("runs/default/version_0"))
    assert "accumulated_decay" in row
    assert not [name for name in row if name.startswith("norm/") or name == "sparsity"]
    out = capsys.readouterr().out
    assert "weight norm" not in out
    assert " weights " not in out
    assert " scales " in out


def test_the_decay_accumulates_with_both_schedules(tmp_path: Path) -> None:
    rows, classifier, *_ = monitored(
        tmp_path, lr_scheduler=partial(WarmupDecay, warmup=0.0, decay="linear"), decay_schedule=Linear(1.0, 0.2)
    )
    steps = np.arange(10)
    rates, strengths = 0.05 * (1 - (steps + 1) / 11), 0.01 * (1 - 0.8 * steps / 10)
    assert rows[-1]["accumulated_decay"] == pytest.approx((rates * strengths / 0.1).sum())
    # τ does not depend on the schedules: it is computed from the highest learning rate and the λ of the config.
    tau = classifier.optimization.tau(classifier.trainer.optimizers[0], 0)
    assert tau == pytest.approx(0.1 / (rates.max() * 0.01 * 5))
