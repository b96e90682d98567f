import itertools

import pytest
import torch
from torch import Tensor, nn

from regularization import ResNet, SmallResNet
from regularization.optim.invariance import scale_invariant


def batch(size: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(64, 3, size, size)


@pytest.mark.parametrize(("network", "size"), [(ResNet(), 64), (SmallResNet(width=8), 16)])
def test_convolutions_in_front_of_a_norm_layer_are_invariant(network: nn.Module, size: int) -> None:
    torch.manual_seed(1)
    invariant = scale_invariant(network, batch(size))
    modules = dict(network.named_modules())
    expected = set()
    for name, module in modules.items():
        if isinstance(module, nn.Sequential) and name.endswith("branch"):
            children = list(module.named_children())
            for (index, child), (_, follower) in itertools.pairwise(children):
                if isinstance(child, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
                    expected.add(f"{name}.{index}.weight")
    assert {name for name, result in invariant.items() if result.filters.float().mean() > 0.9} == expected
    assert {name for name, result in invariant.items() if result.filters.any()} == expected
    assert {name for name, result in invariant.items() if result.fraction > 0} == expected
    assert all(result.level == "filters" for result in invariant.values())


def test_filters_behind_scales_of_zero_are_invariant() -> None:
    """Some networks begin with γ = 0, behind which there is no gradient."""
    torch.manual_seed(1)
    network = SmallResNet(width=8)
    expected = {name: it.filters.tolist() for name, it in scale_invariant(network, batch(16)).items()}
    scales = [w for name, w in network.named_parameters() if name.startswith("stages.1") and name.endswith("1.weight")]
    for w in (scale for scale in scales if scale.ndim == 1):
        nn.init.zeros_(w)
    before = {name: w.clone() for name, w in network.named_parameters()}
    assert any(not w.any() for name, w in before.items() if not name.endswith("bias"))
    assert {name: it.filters.tolist() for name, it in scale_invariant(network, batch(16)).items()} == expected
    assert all(torch.equal(w, before[name]) for name, w in network.named_parameters())


def change_when_scaled(network: nn.Module, images: Tensor, w: Tensor, part: slice) -> float:
    """The relative change of the outputs when these filters of w are multiplied by 10."""
    with torch.no_grad():
        before = network(images)
        kept = w.clone()
        w[part] *= 10
        after = network(images)
        w.copy_(kept)
    return float((after - before).norm() / before.norm())


def convolutions(norm: nn.Module) -> nn.Module:
    first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    second = nn.Conv2d(8, 4, 3, padding=1)
    return nn.Sequential(first, norm, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


@pytest.mark.parametrize(
    ("norm", "level", "groups", "size"),
    [
        (nn.BatchNorm2d(8), "filters", 0, 1),
        (nn.InstanceNorm2d(8), "filters", 0, 1),
        (nn.GroupNorm(4, 8), "groups", 4, 2),
        (nn.GroupNorm(2, 8), "groups", 2, 4),
        (nn.GroupNorm(1, 8), "layers", 1, 8),
        (nn.LayerNorm([8, 8, 8]), "layers", 1, 8),
        (nn.Identity(), None, 0, 8),
    ],
)
def test_each_norm_layer_has_its_level_of_invariance(
    norm: nn.Module, level: str | None, groups: int, size: int
) -> None:
    """``size`` filters can be scaled together without a change of the outputs, but half of them cannot."""
    network, images = convolutions(norm).double().train(), batch(8).double()
    invariant = scale_invariant(network, images)
    w = network.get_parameter("0.weight")
    first = invariant["0.weight"]
    assert first.groups == groups
    assert first.fraction == (0 if level is None else 1)
    assert level is None or first.level == level
    assert bool(first.filters.all()) == bool(first.filters.any()) == (level == "filters")
    assert (change_when_scaled(network, images, w, slice(0, size)) < 1e-3) == (level is not None)
    assert size == 1 or change_when_scaled(network, images, w, slice(0, size // 2)) > 0.01
    # No norm layer follows the layers after it.
    assert invariant["3.weight"].fraction == invariant["6.weight"].fraction == 0


@pytest.mark.parametrize("seed", range(3))
def test_without_norm_layers_nothing_is_invariant(seed: int) -> None:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 48, 3, bias=False), nn.ReLU(), nn.Conv2d(48, 96, 3, bias=False), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))
    assert not any(it.filters.any() or it.fraction for it in scale_invariant(network, batch(8)).values())


def test_scaling_invariant_filters_does_not_change_the_outputs() -> None:
    network = SmallResNet(width=4).double().train()
    images = batch(8).double()
    invariant = scale_invariant(network, images)
    for name, w in network.named_parameters():
        if w.ndim > 1:
            change = change_when_scaled(network, images, w, slice(None))
            assert (change < 1e-3) == bool(invariant[name].filters.all()), name


def test_the_network_and_the_random_state_do_not_change() -> None:
    network = SmallResNet(width=4, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = batch(8)
    state = torch.get_rng_state()
    scale_invariant(network, images)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(w.grad is None for w in network.parameters())


def test_unused_parameters_are_not_invariant() -> None:
    network = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    network.forward = lambda x: network["used"](x.mean(dim=(2, 3)))
    invariant = scale_invariant(network, torch.randn(16, 3, 4, 4))
    assert not invariant["unused.weight"].filters.any()
    assert invariant["unused.weight"].fraction == 0
