import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody calls it

from regularization import ResNet, SmallResNet


def seed_network(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The seed's forward pass written down once more with functions only, from the issue's description, for 96×96."""
    tensors = iter(state.values())

    def convolution(x: Tensor, bias: bool, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, next(tensors), next(tensors) if bias else None, stride, padding)

    def norm(x: Tensor) -> Tensor:
        scale, shift, mean, variance, _ = (next(tensors) for _ in range(5))
        return F.batch_norm(x, mean, variance, scale, shift)

    x = F.max_pool2d(convolution(x, bias=True, stride=2), 3, 2)
    for block in range(8):
        halves = block in (2, 4, 6)
        y = F.relu(norm(convolution(x, bias=False, stride=2 if halves else 1, padding=1)))
        y = F.relu(norm(convolution(y, bias=False, padding=1)))
        x = F.relu(y + (convolution(x, bias=True, stride=2) if halves else x))
    return F.linear(F.avg_pool2d(x, 3).flatten(1), next(tensors), next(tensors))


def test_the_seeds_parameters_and_shapes() -> None:
    network = ResNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_180_682
    assert len(list(network.parameters())) == 58
    x = torch.zeros(1, 3, 96, 96)
    shapes = [tuple((x := stage(x)).shape[1:]) for stage in [*network.stem, *network.stages, network.pool]]
    pairs = [(64, 22, 22), (128, 11, 11), (256, 6, 6), (512, 3, 3)]
    assert shapes == [(64, 45, 45), (64, 22, 22), *(shape for shape in pairs for _ in range(2)), (512, 1, 1)]


def test_the_seeds_function() -> None:
    torch.manual_seed(0)
    network = ResNet(norm_init="uniform").double().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = torch.randn(norm.num_features, dtype=torch.double)
            norm.running_var = torch.rand(norm.num_features, dtype=torch.double) + 0.5
    images = torch.randn(2, 3, 96, 96, dtype=torch.double)
    torch.testing.assert_close(network(images), seed_network(network.state_dict(), images), rtol=1e-12, atol=1e-12)


@settings(max_examples=6, deadline=None)
@given(st.integers(32, 100), st.integers(32, 100))
def test_any_size_from_32(height: int, width: int) -> None:
    assert ResNet(7).eval()(torch.zeros(1, 3, height, width)).shape == (1, 7)


def test_small_network_fits_digits_and_cifar() -> None:
    network = SmallResNet(10, width=32)
    assert sum(parameter.numel() for parameter in network.parameters()) == 308_266
    for size in (4, 8, 32):
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 10)


@pytest.mark.parametrize("network", [ResNet, SmallResNet])
def test_norm_init(network: type[ResNet] | type[SmallResNet]) -> None:
    def scales(norm_init: str) -> Tensor:
        modules = network(norm_init=norm_init).modules()  # type: ignore[arg-type]
        return torch.cat([module.weight.detach() for module in modules if isinstance(module, nn.BatchNorm2d)])

    assert (scales("ones") == 1).all()
    drawn = scales("uniform")
    assert 0 <= drawn.min() < 0.05
    assert 0.95 < drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.05)
