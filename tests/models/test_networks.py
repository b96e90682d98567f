import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the usual name
from torch.utils.flop_counter import FlopCounterMode

from regularization import ResNet, SmallResNet, WhitenedNet
from regularization.errors import UserError
from regularization.models.blocks import DropSquares, StandardizedConv2d
from regularization.models.networks import ShiftNorm


def seed_network(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The forward pass of the seed's network for 96×96 images, written with functions only, from its description."""
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


def test_parameters_and_shapes_of_the_seed() -> None:
    network = ResNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_180_682
    assert len(list(network.parameters())) == 58
    x = torch.zeros(1, 3, 96, 96)
    shapes = [tuple((x := stage(x)).shape[1:]) for stage in [*network.stem, *network.stages, network.pool]]
    pairs = [(64, 22, 22), (128, 11, 11), (256, 6, 6), (512, 3, 3)]
    assert shapes == [(64, 45, 45), (64, 22, 22), *(shape for shape in pairs for _ in range(2)), (512, 1, 1)]


def test_function_of_the_seed() -> None:
    torch.manual_seed(0)
    network = ResNet(norm_init="uniform").double().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean = torch.randn(norm.num_features, dtype=torch.double)
            norm.running_var = torch.rand(norm.num_features, dtype=torch.double) + 0.5
    images = torch.randn(2, 3, 96, 96, dtype=torch.double)
    torch.testing.assert_close(network(images), seed_network(network.state_dict(), images), rtol=1e-12, atol=1e-12)


@settings(max_examples=6)
@given(st.integers(32, 100), st.integers(32, 100))
def test_resnet_accepts_any_size_from_32(height: int, width: int) -> None:
    assert ResNet(7).eval()(torch.zeros(1, 3, height, width)).shape == (1, 7)


def test_small_resnet_accepts_sizes_of_digits_and_cifar() -> None:
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


def test_whitening_makes_patches_uncorrelated() -> None:
    generator = np.random.default_rng(0)
    # Like images, the noise is smooth in space and similar in the colours.
    noise = generator.normal(size=(50, 1, 17, 17)) + 0.3 * generator.normal(size=(50, 3, 17, 17))
    images = torch.from_numpy(noise[:, :, 1:, 1:] + noise[:, :, :-1, 1:] + noise[:, :, 1:, :-1]).float()
    network = WhitenedNet()
    network.init_from_data(images)
    # The layer was computed from every second patch in both directions.
    outputs = network.whitening(images)[:, :, ::2, ::2].movedim(1, -1).reshape(-1, 24).double().detach().numpy()
    patches = images.numpy().reshape(50, 3, 8, 2, 8, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 12).astype(float)
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    moments = outputs[:, :12].T @ outputs[:, :12] / len(outputs)
    assert np.allclose(moments, np.diag(values / (values + 5e-4)), atol=1e-3)
    assert np.allclose(outputs[:, 12:], -outputs[:, :12], atol=1e-6)


def test_convolutions_of_the_whitened_net_start_as_the_identity() -> None:
    network = WhitenedNet(width=32)
    kernels = [module for module in network.stages.modules() if isinstance(module, nn.Conv2d)]
    assert len(kernels) == 6
    x = torch.rand(2, 256, 9, 9)
    for kernel in kernels:
        assert torch.equal(kernel(x[:, : kernel.in_channels])[:, : kernel.in_channels], x[:, : kernel.in_channels])


def test_a_mirrored_network_does_not_distinguish_left_and_right() -> None:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 24, 20, dtype=torch.double)
    network = WhitenedNet(7, mirror=True).double().eval()
    plain = WhitenedNet(7).double().eval()
    plain.load_state_dict(network.state_dict())
    assert network(images).shape == (4, 7)
    torch.testing.assert_close(network(images), network(images.flip(-1)))
    torch.testing.assert_close(network(images), (plain(images) + plain(images.flip(-1))) / 2)
    assert torch.equal(network.train()(images), plain.train()(images))


def test_shift_norm_is_batch_norm_with_faster_biases() -> None:
    torch.manual_seed(0)
    shift_norm = ShiftNorm(3).double()
    batch_norm = nn.BatchNorm2d(3, momentum=0.4).double()
    weight = torch.randn(3, 1, 1, dtype=torch.double)
    gain = ShiftNorm.GAIN**2
    optimizers = [
        torch.optim.SGD([shift_norm.bias], lr=0.001, weight_decay=0.3, momentum=0.9, nesterov=True),
        torch.optim.SGD([batch_norm.bias], lr=0.001 * gain, weight_decay=0.3 / gain, momentum=0.9, nesterov=True),
    ]
    for _ in range(10):
        x = torch.randn(5, 3, 4, 4, dtype=torch.double)
        for norm, optimizer in zip((shift_norm, batch_norm), optimizers, strict=True):
            optimizer.zero_grad()
            (norm(x) * weight).tanh().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ShiftNorm.GAIN * shift_norm.bias, batch_norm.bias)
    torch.testing.assert_close(shift_norm.running_var, batch_norm.running_var)
    torch.testing.assert_close(shift_norm.eval()(x), batch_norm.eval()(x))


@pytest.mark.parametrize(("width", "side", "gflop"), [(32, 24, 0.10), (64, 32, 0.71)])
def test_the_cost_of_the_whitened_net(width: int, side: int, gflop: float) -> None:
    with FlopCounterMode(display=False) as count:
        WhitenedNet(width=width)(torch.zeros(1, 3, side, side)).sum().backward()
    assert count.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.005)


def test_the_whitened_net_rejects_small_images() -> None:
    assert WhitenedNet()(torch.zeros(2, 3, 9, 12)).shape == (2, 10)
    with pytest.raises(UserError, match="needs images of 9×9 or larger, not 8×12"):
        WhitenedNet()(torch.zeros(2, 3, 8, 12))


@pytest.mark.parametrize("network", [SmallResNet(width=8, drop_block=0.2), ResNet(drop_block=0.2)])
def test_drop_block_drops_squares_in_the_second_half(network: SmallResNet | ResNet) -> None:
    torch.manual_seed(0)
    modules = [module for module in network.modules() if isinstance(module, DropSquares)]
    probabilities = [module.p for module in modules]
    assert probabilities == ([0.0, 0.2, 0.2] if len(modules) == 3 else [0.0] * 4 + [0.2] * 4)
    drop, ones = modules[-1], torch.ones(64, 8, 16, 16)
    dropped = drop(ones)
    assert (dropped == 0).float().mean() == pytest.approx(0.2, abs=0.03)
    assert dropped.mean() == pytest.approx(1, abs=1e-4)
    # Each zero belongs to a square of 3×3 zeros: the squares are found by erosion, and widened again.
    centres = -F.max_pool2d(-(dropped == 0).float(), 3, stride=1)
    assert torch.equal(F.max_pool2d(F.pad(centres, [1] * 4), 3, stride=1, padding=1) > 0, dropped == 0)
    assert set(drop(ones[:, :, :2, :2]).gt(0).unique().tolist()) == {False, True}
    assert torch.equal(drop.eval()(ones), ones)


def test_drop_block_needs_a_probability() -> None:
    with pytest.raises(UserError, match="drop_block must be at least 0 and below 1, not 1"):
        SmallResNet(drop_block=1.0)


def test_standardized_filters_have_mean_0_and_keep_the_variance() -> None:
    torch.manual_seed(0)
    convolution, images = StandardizedConv2d(8, 5, 3, stride=2, padding=1), torch.randn(4, 8, 9, 9)
    w = convolution.weight.detach().double().numpy().reshape(5, -1)
    standardized = (w - w.mean(axis=1, keepdims=True)) / w.std(axis=1, keepdims=True) / np.sqrt(w.shape[1])
    weight = torch.from_numpy(standardized.reshape(5, 8, 3, 3))
    assert convolution.bias is not None
    reference = F.conv2d(images.double(), weight, convolution.bias.double(), stride=2, padding=1)
    assert torch.allclose(convolution(images).double(), reference, atol=1e-5)
    assert [type(layer) for layer in ResNet(standardize_weights=True).modules()].count(StandardizedConv2d) == 20
