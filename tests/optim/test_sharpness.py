"""SAM and ASAM against their formulas, computed for a step on a network without norm layers."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from regularization import ASAM, SAM, ImageClassifier, UserError, WhitenedNet

IMAGES = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.arange(6) % 3


def gradient_of(network: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def loss(weights: dict[str, Tensor]) -> Tensor:
        return cross_entropy(torch.func.functional_call(network, weights, IMAGES), LABELS)

    gradients: dict[str, Tensor] = torch.func.grad(loss)(weights)
    return gradients


def norm(tensors: dict[str, Tensor]) -> Tensor:
    length: Tensor = torch.cat([tensor.flatten() for tensor in tensors.values()]).norm()
    return length


@pytest.mark.parametrize("method", [SAM(0.3), ASAM(0.3)])
def test_gradient_is_that_of_the_formula(method: SAM) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    network.register_parameter("unused", nn.Parameter(torch.ones(2)))
    weights = {name: w.detach().clone() for name, w in network.named_parameters() if name != "unused"}
    g = gradient_of(network, weights)
    if isinstance(method, ASAM):
        t = {name: w.abs() + 0.01 for name, w in weights.items()}
        length = norm({name: t[name] * g[name] for name in g})
        epsilon = {name: 0.3 * t[name] ** 2 * g[name] / length for name in g}
    else:
        epsilon = {name: 0.3 * g[name] / norm(g) for name in g}
        assert norm(epsilon) == pytest.approx(0.3)
    expected = gradient_of(network, {name: w + epsilon[name] for name, w in weights.items()})

    def loss() -> Tensor:
        return cross_entropy(network(IMAGES), LABELS)

    before = loss()
    value = method.loss(network, before, loss)
    torch.autograd.backward(value)
    assert value.item() == before.item()
    for name, w in network.named_parameters():
        if name == "unused":
            assert w.grad is None
            continue
        assert w.grad is not None
        torch.testing.assert_close(w.grad, expected[name])
        assert not torch.allclose(w.grad, g[name], rtol=1e-3)
        assert torch.equal(w.detach(), weights[name])


def test_the_statistics_of_batch_norm_are_those_of_the_first_pass() -> None:
    norm = nn.BatchNorm1d(4)
    network = nn.Sequential(nn.Linear(5, 4), norm, nn.Linear(4, 3))
    alone = copy.deepcopy(network)
    images = IMAGES.float()
    cross_entropy(alone(images), LABELS)

    def loss() -> Tensor:
        return cross_entropy(network(images), LABELS)

    SAM(1.0).loss(network, loss(), loss)
    for name, statistic in alone.named_buffers():
        if "running" in name:
            assert torch.equal(network.get_buffer(name), statistic)
    assert norm.momentum == 0.1


def test_the_weights_are_restored_after_an_error() -> None:
    network = nn.Linear(5, 3)
    before = network.weight.detach().clone()

    def fails() -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        SAM(1.0).loss(network, cross_entropy(network(IMAGES.float()), LABELS), fails)
    assert torch.equal(network.weight, before)


def test_without_a_distance_nothing_changes() -> None:
    loss = torch.ones((), requires_grad=True)
    assert SAM(0.0).loss(nn.Linear(2, 2), loss, lambda: loss) is loss
    with pytest.raises(UserError, match="ASAM: rho must be at least 0, not -1"):
        ASAM(-1)


def test_a_gradient_scaler_is_refused() -> None:
    classifier = ImageClassifier(nn.Linear(5, 3), sharpness=SAM())
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()), datamodule=None)
    classifier._trainer = trainer  # type: ignore[assignment]
    with pytest.raises(UserError, match="sharpness cannot be combined with precision 16-mixed"):
        classifier.setup("fit")


def test_the_second_pass_does_not_count_for_batch_norm() -> None:
    norm = nn.BatchNorm2d(4, momentum=None)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(36, 2))
    images = torch.randn(6, 3, 5, 5)
    loss = network(images).square().mean()
    before = {name: tensor.clone() for name, tensor in norm.named_buffers()}
    SAM(0.1).loss(network, loss, lambda: network(images).square().mean())
    assert before["num_batches_tracked"] == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.named_buffers())
    assert norm.track_running_stats


def test_the_second_pass_does_not_count_for_the_norm_of_the_fast_network() -> None:
    network = WhitenedNet(width=2).train()
    images = torch.randn(6, 3, 12, 12)
    loss = network(images).square().mean()
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    assert any(tensor.any() for name, tensor in before.items() if name.endswith("running_mean"))
    SAM(0.5).loss(network, loss, lambda: network(images).square().mean())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())
    network(images)
    assert not all(torch.equal(tensor, before[name]) for name, tensor in network.named_buffers())
