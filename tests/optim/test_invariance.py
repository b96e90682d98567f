import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from regularization import ResNet, SmallResNet
from regularization.optim.invariance import scale_invariant


def batch(size: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(64, 3, size, size), torch.randint(0, 10, (64,))


@pytest.mark.parametrize(("network", "size"), [(ResNet(), 64), (SmallResNet(width=8), 16)])
def test_convolutions_in_front_of_a_norm_layer_are_invariant(network: nn.Module, size: int) -> None:
    torch.manual_seed(1)
    invariant = scale_invariant(network, *batch(size))
    modules = dict(network.named_modules())
    expected = set()
    for name, module in modules.items():
        if isinstance(module, nn.Sequential) and name.endswith("branch"):
            children = list(module.named_children())
            for (index, child), (_, follower) in itertools.pairwise(children):
                if isinstance(child, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
                    expected.add(f"{name}.{index}.weight")
    assert {name for name, mask in invariant.items() if mask.float().mean() > 0.9} == expected
    assert {name for name, mask in invariant.items() if mask.float().mean() > 0.05} == expected


def test_scaling_invariant_filters_does_not_change_the_loss() -> None:
    network = SmallResNet(width=4).double().train()
    images, labels = batch(8)
    invariant = scale_invariant(network, images.double(), labels)
    for name, w in network.named_parameters():
        if w.ndim > 1:
            before = F.cross_entropy(network(images.double()), labels)
            with torch.no_grad():
                w.mul_(10)
                change = (F.cross_entropy(network(images.double()), labels) - before).abs().item()
                w.div_(10)
            assert (change < 1e-5) == bool(invariant[name].all()), name


def test_the_network_and_the_random_state_do_not_change() -> None:
    network = SmallResNet(width=4, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images, labels = batch(8)
    state = torch.get_rng_state()
    scale_invariant(network, images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(w.grad is None for w in network.parameters())


def test_unused_parameters_are_not_invariant() -> None:
    network = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    network.forward = lambda x: network["used"](x.mean(dim=(2, 3)))
    invariant = scale_invariant(network, torch.randn(16, 3, 4, 4), torch.zeros(16, dtype=torch.long))
    assert not invariant["unused.weight"].any()
