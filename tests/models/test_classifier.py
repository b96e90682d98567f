import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer, seed_everything
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from regularization import L1, Digits, ImageClassifier, Linear, SmallResNet, WarmupDecay
from regularization.data.augmentation.augment import mix
from regularization.errors import UserError
from regularization.models.metrics import EpochMetrics, calibration_error, class_scores

Maker = Callable[..., Any]


def trainer(epochs: int, **options: Any) -> Trainer:
    options |= {"logger": False, "enable_progress_bar": False}
    options.setdefault("enable_checkpointing", "callbacks" in options)
    return Trainer(max_epochs=epochs, enable_model_summary=False, accelerator="cpu", **options)


def small(seed: int = 0) -> SmallResNet:
    seed_everything(seed)
    return SmallResNet(width=4)


def test_trains_like_a_plain_pytorch_loop() -> None:
    """Two epochs of SGD with weight decay and momentum, without augmentation, against PyTorch without Lightning."""
    data = Digits(batch_size=100, seed=3)
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
    classifier = ImageClassifier(small(), sgd, memory_format="contiguous")
    fitted = trainer(2)
    fitted.fit(classifier, data)

    network, (images, subset) = small(), data.train_set or pytest.fail("not read")
    optimizer = sgd(network.parameters())
    for epoch in range(2):
        losses, correct = [], 0
        order = subset[torch.randperm(len(subset), generator=torch.Generator().manual_seed(mix(3, epoch)))]
        for index in torch.split(order, 100):
            logits = network((images[index][0].float() / 255 - 0.5) / 0.5)
            loss = F.cross_entropy(logits, images.labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses += [loss.item()] * len(index)
            correct += int((logits.argmax(1) == images.labels[index]).sum())
    for w, expected in zip(classifier.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(w, expected)
    assert fitted.callback_metrics["train_loss"].item() == pytest.approx(np.mean(losses), rel=1e-6)
    assert fitted.callback_metrics["train_accuracy"].item() == pytest.approx(correct / len(subset))


def test_running_means_are_over_the_images_since_the_last_call_also_after_a_checkpoint() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(0, 7, (50,))
    metrics, trainer = EpochMetrics(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for start, end in ((0, 10), (10, 25), (25, 50)):
        metrics.update(F.cross_entropy(logits[start:end], labels[start:end]), logits[start:end], labels[start:end])
        if end == 25:
            state, metrics = metrics.state_dict(trainer), EpochMetrics()
            metrics.load_state_dict(state, trainer)
            continue
        losses = -logits[start:end].double().log_softmax(dim=1).numpy()[np.arange(end - start), labels[start:end]]
        accuracy = (logits[start:end].numpy().argmax(axis=1) == labels[start:end].numpy()).mean()
        assert metrics.running_means(trainer) == pytest.approx({"loss": losses.mean(), "accuracy": accuracy}, rel=1e-5)
    losses = -logits.double().log_softmax(dim=1).numpy()[np.arange(50), labels]
    assert metrics.compute(trainer)["loss"].item() == pytest.approx(losses.mean(), rel=1e-5)


def test_metrics_are_means_over_images_not_batches() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(0, 7, (50,))
    metrics, trainer = EpochMetrics(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for part in (slice(0, 32), slice(32, 50)):
        metrics.update(F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    p = np.exp(logits.numpy().astype(float))
    p /= p.sum(axis=1, keepdims=True)
    expected = {"loss": -np.log(p[np.arange(50), labels]).mean(), "accuracy": (p.argmax(1) == labels.numpy()).mean()}
    computed = {name: value.item() for name, value in metrics.compute(trainer).items()}
    assert computed == pytest.approx(expected, rel=1e-5)
    metrics.update(torch.tensor(1.0), logits[:1], logits[:1].argmax(1))
    assert {name: value.item() for name, value in metrics.compute(trainer).items()} == {"loss": 1.0, "accuracy": 1.0}


def test_the_calibration_error_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(500, 7), torch.randint(0, 7, (500,))
    metrics, trainer = (
        EpochMetrics(calibration=True),
        Trainer(accelerator="cpu", logger=False, enable_checkpointing=False),
    )
    for part in torch.split(torch.arange(500), 64):
        metrics.update(F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    confidence = logits.softmax(1).numpy().max(axis=1)
    correct = logits.numpy().argmax(axis=1) == labels.numpy()
    expected = 0.0
    for lower in np.arange(15) / 15:
        inside = (confidence >= lower) & (confidence < lower + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert metrics.compute(trainer)["calibration_error"].item() == pytest.approx(expected, abs=1e-6)
    computed = calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert computed.item() == pytest.approx(expected, abs=1e-6)
    # The next epoch starts with an empty state.
    metrics.update(torch.tensor(1.0), logits[:1], logits[:1].argmax(1))
    error = 1 - confidence[0]
    assert metrics.compute(trainer)["calibration_error"].item() == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "interval", "total"),
    [
        (partial(WarmupDecay, warmup=0.2), "step", "total_steps"),
        (partial(OneCycleLR, max_lr=0.1), "step", "total_steps"),
        (partial(OneCycleLR, max_lr=0.1, epochs=9, steps_per_epoch=11), "step", None),
        (partial(OneCycleLR, max_lr=0.1, total_steps=99), "step", None),
        (partial(CosineAnnealingLR, T_max=-1), "step", "T_max"),
        (lambda optimizer, T_max=None: CosineAnnealingLR(optimizer, T_max), "step", "T_max"),  # noqa: N803
        (partial(CosineAnnealingLR, T_max=3), "epoch", None),
        (partial(StepLR, step_size=1), "epoch", None),
    ],
)
def test_a_scheduler_gets_the_number_of_steps_from_the_trainer(make: Maker, interval: str, total: str | None) -> None:
    fitted = trainer(3, limit_train_batches=4, limit_val_batches=1)
    fitted.fit(ImageClassifier(small(), lr_scheduler=make), Digits())
    config = fitted.lr_scheduler_configs[0]
    assert config.interval == interval
    assert config.scheduler.last_epoch == (12 if interval == "step" else 3)
    if total:
        assert getattr(config.scheduler, total) == 12


@pytest.mark.parametrize(
    ("optimizer", "scheduler", "message"),
    [
        (partial(torch.optim.SGD, lr=-0.1), None, "Invalid learning rate: -0.1"),
        (partial(torch.optim.SGD, lr=0.1, weight_decay=-1e-4), None, "Invalid weight_decay value: -0.0001"),
        (partial(torch.optim.SGD, lr=0.1), partial(WarmupDecay, warmup=2.0), "warmup must be between 0 and 1"),
    ],
)
def test_invalid_values_are_rejected_at_once(optimizer: Maker, scheduler: Maker | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageClassifier(small(), optimizer, scheduler)


def test_a_plateau_scheduler_uses_its_metric(tmp_path: Path) -> None:
    from lightning.pytorch.cli import ReduceLROnPlateau

    make = partial(ReduceLROnPlateau, monitor="val_accuracy", mode="max", patience=0, threshold=2.0)
    fitted = trainer(3, limit_train_batches=1, limit_val_batches=1)
    fitted.fit(ImageClassifier(small(), lr_scheduler=make), Digits())
    # The first accuracy is the best so far, and no later one can be three times as high, so the learning rate is
    # reduced after epochs 2 and 3.
    assert fitted.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)


def test_the_memory_format_does_not_change_results() -> None:
    images = torch.randn(4, 3, 8, 8)
    networks = []
    for _ in range(2):
        seed_everything(0)
        networks.append(SmallResNet(width=16))
    first, last = ImageClassifier(networks[0], memory_format="contiguous"), ImageClassifier(networks[1])
    kernel = dict(last.named_parameters())["network.stages.1.branch.0.weight"]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(first(images), last(images))
    narrow = dict(ImageClassifier(small()).named_parameters())["network.stages.1.branch.0.weight"]
    assert narrow.is_contiguous()


def test_frozen_parameters_do_not_change() -> None:
    network = small()
    network.stem.requires_grad_(False)
    before = network.stem.weight.clone()
    classifier = ImageClassifier(network, partial(torch.optim.SGD, lr=0.1, weight_decay=0.5))
    fitted = trainer(1, limit_train_batches=2, limit_val_batches=1)
    fitted.fit(classifier, Digits())
    assert torch.equal(network.stem.weight, before)
    assert isinstance(network.stem, nn.Conv2d)


def test_a_scheduler_must_not_end_before_the_training() -> None:
    classifier = ImageClassifier(small(), lr_scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=5))
    with pytest.raises(UserError, match="the scheduler ends before the training does"):
        trainer(3, limit_train_batches=4, limit_val_batches=1).fit(classifier, Digits())


def test_a_schedule_needs_a_fixed_training_length() -> None:
    classifier = ImageClassifier(small(), lr_scheduler=partial(WarmupDecay))
    with pytest.raises(UserError, match=r"the schedule needs a fixed training length: set --trainer\.max_epochs or"):
        trainer(-1, limit_train_batches=4, limit_val_batches=1).fit(classifier, Digits())
    classifier = ImageClassifier(small(), penalties={"l1": L1(0.1, schedule=Linear())})
    with pytest.raises(UserError, match="the schedule of a penalty needs a fixed training length"):
        trainer(-1, limit_train_batches=4, limit_val_batches=1).fit(classifier, Digits())


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_losses_are_summed_in_float32_or_better(precision: str) -> None:
    fitted = trainer(1, precision=precision)
    classifier = ImageClassifier(small(), partial(torch.optim.SGD, lr=1e-9))
    fitted.fit(classifier, Digits(batch_size=4))
    # With this learning rate, nothing is learned: the loss is that of guessing, over 324 batches.
    assert fitted.callback_metrics["train_loss"].item() == pytest.approx(np.log(10), rel=0.2)
    exact = torch.float64 if precision == "64-true" else torch.float32
    assert fitted.callback_metrics["train_loss"].dtype == exact


@pytest.mark.parametrize(
    "limit", [{"max_epochs": 2}, {"max_epochs": 20, "max_steps": 6}, {"max_epochs": -1, "max_steps": 6}]
)
def test_steps_per_epoch_do_not_depend_on_how_the_training_length_is_given(limit: dict[str, int]) -> None:
    classifier = ImageClassifier(small(), timescale_epochs=3.0)
    options: dict[str, Any] = {"limit_train_batches": 8, "limit_val_batches": 1, "accumulate_grad_batches": 2}
    trainer(limit.pop("max_epochs"), **options, **limit).fit(classifier, Digits())
    assert classifier.optimization.steps_per_epoch == 4
    assert classifier.optimization.base_weight_decay(0) == pytest.approx(1 / (0.01 * 3 * 4))


def test_the_keys_of_a_checkpoint_are_those_of_version_0_1(tmp_path: Path) -> None:
    fitted = trainer(1, limit_train_batches=1, limit_val_batches=1)
    fitted.fit(ImageClassifier(small()), Digits())
    fitted.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint.keys() >= {"config", "settings", "serving", "regularizer", "train_scores"}
    assert checkpoint["settings"].keys() == {"optimizer", "groups", "scheduler", "schedule"}
    assert checkpoint["train_scores"].keys() == {"parts"}


@given(st.integers(1, 60), st.integers(1, 6), st.integers(0, 100))
def test_scores_by_class_are_those_of_scikit_learn(images: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions, labels = torch.randint(classes, (2, images), generator=generator)
    scores = class_scores(predictions, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about predicted classes without images
        balanced = balanced_accuracy_score(labels, predictions)
    assert float(scores["balanced_accuracy"]) == pytest.approx(balanced, abs=1e-6)
    assert float(scores["macro_f1"]) == pytest.approx(f1_score(labels, predictions, average="macro"), abs=1e-6)
