import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from regularization import CIFAR10, L1, Digits, ImageClassifier, Linear, SmallResNet, WarmupDecay
from regularization.callbacks.history import History
from regularization.callbacks.monitor import Monitor, describe_effect
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
    rates = [0.05 / 0.1 / filters(weights[name])[mask].square().sum(1) for name, mask in report.invariant.items()]
    assert row["effective_lr"] == pytest.approx(torch.cat(rates).median().item(), rel=1e-5)
    assert row["gap_accuracy"] == pytest.approx(row["clean_accuracy"] - row["val_accuracy"])
    assert row["gap_loss"] == pytest.approx(row["val_loss"] - row["clean_loss"])

    index = torch.cat([batch.indices for batch in data.clean_dataloader()])
    images, subset = data.train_set or pytest.fail("not read")
    assert len(set(index.tolist())) == 256
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
        ({"accumulated_decay": 0.0}, "weight decay was off, or this optimizer gives it no timescale (clean"),
        ({"accumulated_decay": 0.4}, "λ hardly acted: the run was 0.4 τ long"),
        ({"accumulated_decay": 5.0}, "λ acted: the run was 5 τ long (clean training accuracy 90.0%, gap +10.0%)"),
        ({"accumulated_decay": 5.0, "clean_accuracy": 0.5}, "λ is likely too strong, the network no longer fits"),
        ({"accumulated_decay": 5.0, "clean_loss": 2.2}, "λ is likely too strong"),
        ({"accumulated_decay": 5.0, "sparsity": 0.25}, "gap +10.0%, 25.0% of the weights are zero)"),
    ],
)
def test_the_effect_is_described_in_a_sentence(changes: Row, message: str) -> None:
    row = {"clean_accuracy": 0.9, "clean_loss": 0.3, "gap_accuracy": 0.1, "sparsity": 0.0}
    assert message in describe_effect([row, row | changes], num_classes=10)


def test_a_lambda_that_is_far_too_strong_is_recognized(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *QUICK, "--model.optimizer.weight_decay", "0.5", "--trainer.max_epochs", "3"])
    assert "λ is likely too strong, the network no longer fits its training data" in capsys.readouterr().out
    assert not math.isnan(rows_of(RUN)[-1]["clean_loss"])


def test_the_clean_part_of_cifar_is_a_fiftieth_of_the_training_images(cifar_root: str) -> None:
    data = CIFAR10(root=cifar_root, val_size=5000)
    data.setup("fit")
    assert sum(len(batch.indices) for batch in data.clean_dataloader()) == 900


def test_the_planned_decay_has_accumulated_at_the_end(tmp_path: Path) -> None:
    make = partial(WarmupDecay, warmup=0.3)
    rows, classifier, *_ = monitored(tmp_path, lr_scheduler=make, decay_schedule=Linear(1.0, 0.2))
    planned = classifier.optimization.planned_decay(classifier.trainer.optimizers[0])
    assert rows[-1]["accumulated_decay"] == pytest.approx(planned)
