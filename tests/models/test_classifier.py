from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer, seed_everything
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR

from regularization import Digits, ImageClassifier, SmallResNet, WarmupDecay
from regularization.data.augment import mix
from regularization.errors import UserError
from regularization.models.metrics import EpochMetrics

Make = Callable[..., Any]


def trainer(epochs: int, **options: Any) -> Trainer:
    options |= {"logger": False, "enable_progress_bar": False}
    options.setdefault("enable_checkpointing", "callbacks" in options)
    return Trainer(max_epochs=epochs, enable_model_summary=False, accelerator="cpu", **options)


def small(seed: int = 0) -> SmallResNet:
    seed_everything(seed)
    return SmallResNet(width=4)


def test_trains_like_a_loop_written_out() -> None:
    """Two epochs of SGD with weight decay, momentum and augmentation off, against PyTorch without Lightning."""
    data = Digits(batch_size=100, seed=3)
    sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-2)
    classifier = ImageClassifier(small(), sgd, memory_format="contiguous")
    fitted = trainer(2)
    fitted.fit(classifier, data)

    network, (images, subset) = small(), data.train_set or pytest.fail("not read")
    optimizer = sgd(network.parameters())
    for epoch in range(2):
        losses, right = [], 0
        order = subset[torch.randperm(len(subset), generator=torch.Generator().manual_seed(mix(3, epoch)))]
        for index in torch.split(order, 100):
            logits = network((images[index][0].float() / 255 - 0.5) / 0.5)
            loss = F.cross_entropy(logits, images.labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses += [loss.item()] * len(index)
            right += int((logits.argmax(1) == images.labels[index]).sum())
    for ours, theirs in zip(classifier.network.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert fitted.callback_metrics["train_loss"].item() == pytest.approx(np.mean(losses), rel=1e-6)
    assert fitted.callback_metrics["train_accuracy"].item() == pytest.approx(right / len(subset))


def test_the_latest_scores_are_of_what_came_since_also_after_a_checkpoint() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(0, 7, (50,))
    scores, trainer = EpochMetrics(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for start, end in ((0, 10), (10, 25), (25, 50)):
        scores.update(F.cross_entropy(logits[start:end], labels[start:end]), logits[start:end], labels[start:end])
        if end == 25:
            kept, scores = scores.state_dict(trainer), EpochMetrics()
            scores.load_state_dict(kept, trainer)
            continue
        part = -logits[start:end].double().log_softmax(dim=1).numpy()[np.arange(end - start), labels[start:end]]
        right = (logits[start:end].numpy().argmax(axis=1) == labels[start:end].numpy()).mean()
        assert scores.running_means(trainer) == pytest.approx({"loss": part.mean(), "accuracy": right}, rel=1e-5)
    total = -logits.double().log_softmax(dim=1).numpy()[np.arange(50), labels]
    assert scores.compute(trainer)["loss"].item() == pytest.approx(total.mean(), rel=1e-5)


def test_scores_are_means_over_images_not_batches() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 7), torch.randint(0, 7, (50,))
    scores, trainer = EpochMetrics(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for part in (slice(0, 32), slice(32, 50)):
        scores.update(F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    p = np.exp(logits.numpy().astype(float))
    p /= p.sum(axis=1, keepdims=True)
    expected = {"loss": -np.log(p[np.arange(50), labels]).mean(), "accuracy": (p.argmax(1) == labels.numpy()).mean()}
    computed = {name: value.item() for name, value in scores.compute(trainer).items()}
    assert computed == pytest.approx(expected, rel=1e-5)
    scores.update(torch.tensor(1.0), logits[:1], logits[:1].argmax(1))
    assert {name: value.item() for name, value in scores.compute(trainer).items()} == {"loss": 1.0, "accuracy": 1.0}


@pytest.mark.parametrize(
    ("make", "interval", "total"),
    [
        (partial(WarmupDecay, warmup=0.2), "step", "total_steps"),
        (partial(OneCycleLR, max_lr=0.1), "step", "total_steps"),
        (partial(OneCycleLR, max_lr=0.1, total_steps=99), "step", None),
        (partial(CosineAnnealingLR, T_max=-1), "step", "T_max"),
        (lambda optimizer, T_max=None: CosineAnnealingLR(optimizer, T_max), "step", "T_max"),  # noqa: N803
        (partial(CosineAnnealingLR, T_max=3), "epoch", None),
        (partial(StepLR, step_size=1), "epoch", None),
    ],
)
def test_a_scheduler_gets_the_number_of_steps_from_the_trainer(make: Make, interval: str, total: str | None) -> None:
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
def test_impossible_values_are_refused_at_once(optimizer: Make, scheduler: Make | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageClassifier(small(), optimizer, scheduler)


def test_plateau_scheduler_watches_its_metric(tmp_path: Path) -> None:
    from lightning.pytorch.cli import ReduceLROnPlateau

    make = partial(ReduceLROnPlateau, monitor="val_accuracy", mode="max", patience=0, threshold=2.0)
    fitted = trainer(3, limit_train_batches=1, limit_val_batches=1)
    fitted.fit(ImageClassifier(small(), lr_scheduler=make), Digits())
    # The first accuracy is the best so far, none can be three times as high: cut after the second and third epoch.
    assert fitted.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)


def test_memory_format_changes_speed_only() -> None:
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


def test_frozen_parameters_are_left_to_the_user() -> None:
    network = small()
    network.stem.requires_grad_(False)
    before = network.stem.weight.clone()
    classifier = ImageClassifier(network, partial(torch.optim.SGD, lr=0.1, weight_decay=0.5))
    fitted = trainer(1, limit_train_batches=2, limit_val_batches=1)
    fitted.fit(classifier, Digits())
    assert torch.equal(network.stem.weight, before)
    assert isinstance(network.stem, nn.Conv2d)


def test_a_scheduler_that_ends_before_the_training() -> None:
    classifier = ImageClassifier(small(), lr_scheduler=partial(OneCycleLR, max_lr=0.1, total_steps=5))
    with pytest.raises(UserError, match="the scheduler ends before the training does"):
        trainer(3, limit_train_batches=4, limit_val_batches=1).fit(classifier, Digits())


def test_a_training_without_end() -> None:
    classifier = ImageClassifier(small(), lr_scheduler=partial(WarmupDecay))
    with pytest.raises(UserError, match="the schedule needs a fixed training length"):
        trainer(-1, limit_train_batches=4, limit_val_batches=1).fit(classifier, Digits())


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_sums_of_losses_are_kept_in_float32_at_least(precision: str) -> None:
    fitted = trainer(1, precision=precision)
    classifier = ImageClassifier(small(), partial(torch.optim.SGD, lr=1e-9))
    fitted.fit(classifier, Digits(batch_size=4))
    # Nothing is learned, so the loss is that of guessing, over 324 batches.
    assert fitted.callback_metrics["train_loss"].item() == pytest.approx(np.log(10), rel=0.2)
    exact = torch.float64 if precision == "64-true" else torch.float32
    assert fitted.callback_metrics["train_loss"].dtype == exact


@pytest.mark.parametrize(
    "limit", [{"max_epochs": 2}, {"max_epochs": 20, "max_steps": 6}, {"max_epochs": -1, "max_steps": 6}]
)
def test_an_epoch_has_its_steps_however_the_end_is_given(limit: dict[str, int]) -> None:
    classifier = ImageClassifier(small(), timescale_epochs=3.0)
    options: dict[str, Any] = {"limit_train_batches": 8, "limit_val_batches": 1, "accumulate_grad_batches": 2}
    trainer(limit.pop("max_epochs"), **options, **limit).fit(classifier, Digits())
    assert classifier.optimization.steps_per_epoch == 4
    assert classifier.optimization.base_weight_decay(0) == pytest.approx(1 / (0.01 * 3 * 4))


def test_planned_decay_follows_the_schedules() -> None:
    from regularization import Linear

    sgd = partial(torch.optim.SGD, lr=0.1, weight_decay=0.02)
    classifier = ImageClassifier(
        small(), sgd, partial(WarmupDecay, warmup=0.0, decay="linear"), decay_schedule=Linear()
    )
    fitted = trainer(2, limit_train_batches=50, limit_val_batches=1)
    fitted.fit(classifier, Digits(batch_size=8))
    expected = sum(0.1 * (1 - (s + 1) / 101) * 0.02 * (1 - s / 100) for s in range(100))
    assert classifier.optimization.planned_decay(fitted.optimizers[0]) == pytest.approx(expected)
