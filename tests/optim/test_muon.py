"""MuonAdamW against torch's Muon and AdamW on their own, and in training."""

import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regularization import Digits, ImageClassifier, MuonAdamW, SmallResNet
from regularization.errors import UserError
from regularization.optim.muon import orthogonalized
from tests.models.test_classifier import trainer


def network(layout: torch.memory_format) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    return layers.double().to(memory_format=layout)


def set_gradients(parameters: list[Tensor], step: int) -> None:
    torch.manual_seed(step)
    for w in parameters:
        w.grad = torch.randn(w.shape, dtype=w.dtype).clone(memory_format=torch.preserve_format)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_muon_and_adamw(layout: torch.memory_format) -> None:
    trained, reference = network(layout), network(torch.contiguous_format)
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3}
    optimizer = MuonAdamW(trained.parameters(), **options)
    matrices = [nn.Parameter(w.detach().reshape(len(w), -1)) for w in reference.parameters() if w.ndim > 1]
    others = [w for w in reference.parameters() if w.ndim == 1]
    expected = [
        torch.optim.Muon(matrices, **options, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, **options),
    ]
    for step in range(4):
        set_gradients(list(trained.parameters()), step)
        gradients = [w.grad for w in trained.parameters() if w.grad is not None]
        for w, gradient in zip(matrices, [it for it in gradients if it.ndim > 1], strict=True):
            w.grad = gradient.reshape(len(w), -1).clone()
        for w, gradient in zip(others, [it for it in gradients if it.ndim == 1], strict=True):
            w.grad = gradient.clone()
        optimizer.step()
        for it in expected:
            it.step()
    for ours, theirs in zip([w for w in trained.parameters() if w.ndim > 1], matrices, strict=True):
        # torch's iterations are computed in bfloat16.
        torch.testing.assert_close(ours.reshape(theirs.shape), theirs.detach(), rtol=0.05, atol=1e-3)
    for ours, theirs in zip([w for w in trained.parameters() if w.ndim == 1], others, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_each_singular_value_is_iterated_and_the_singular_vectors_stay(shape: tuple[int, int], scale: float) -> None:
    matrix = scale * np.random.default_rng(0).normal(size=shape)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    found = orthogonalized(torch.from_numpy(matrix)).numpy()
    np.testing.assert_allclose(found, u * s @ vt, rtol=1e-3, atol=1e-4)


def test_a_gradient_of_zero_moves_nothing_but_the_decay() -> None:
    w = nn.Parameter(torch.ones(3, 4))
    w.grad = torch.zeros(3, 4)
    MuonAdamW([w], lr=0.5, weight_decay=0.5).step()
    assert torch.equal(w.detach(), torch.full((3, 4), 0.75))


def test_a_restored_state_continues_with_the_same_bits() -> None:
    first, second = (network(torch.channels_last) for _ in range(2))
    one = MuonAdamW(first.parameters(), lr=0.02)
    for step in range(5):
        if step == 2:
            second.load_state_dict(first.state_dict())
            two = MuonAdamW(second.parameters(), lr=0.02)
            two.load_state_dict(copy.deepcopy(one.state_dict()))
        for module, optimizer in [(first, one), *([(second, two)] if step >= 2 else [])]:
            set_gradients(list(module.parameters()), step)
            optimizer.step()
    for w, expected in zip(second.parameters(), first.parameters(), strict=True):
        assert torch.equal(w, expected)


def test_closures_schedules_and_the_timescale_in_training() -> None:
    torch.manual_seed(0)
    make = partial(MuonAdamW, lr=2e-2)
    classifier = ImageClassifier(SmallResNet(width=4), make, decay="weights", timescale_epochs=2.0)
    fitted = trainer(2, limit_val_batches=1, limit_train_batches=10)
    fitted.fit(classifier, Digits(batch_size=64, seed=0))
    assert fitted.callback_metrics["train_loss"] < 2.0
    weights, others = fitted.optimizers[0].param_groups
    assert weights["weight_decay"] == pytest.approx(1 / (2e-2 * 2 * 10))
    assert others["weight_decay"] == 0
    assert classifier.optimization.tau(fitted.optimizers[0], 0) == pytest.approx(2.0)


def test_wrong_values_are_rejected() -> None:
    with pytest.raises(UserError, match=r"cannot create the optimizer or its scheduler: .*-1"):
        ImageClassifier(SmallResNet(width=4), partial(MuonAdamW, lr=-1.0))
    with pytest.raises(UserError, match=r"momentum must be at least 0 and below 1, not 1\.5"):
        ImageClassifier(SmallResNet(width=4), partial(MuonAdamW, momentum=1.5))
