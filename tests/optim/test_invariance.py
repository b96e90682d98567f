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
def test_finds_the_convolutions_in_front_of_a_norm(network: nn.Module, size: int) -> None:
    torch.manual_seed(1)
    found = scale_invariant(network, *batch(size))
    modules = dict(network.named_modules())
    expected = set()
    for name, module in modules.items():
        if isinstance(module, nn.Sequential) and name.endswith("branch"):
            children = list(module.named_children())
            for (place, child), (_, follower) in itertools.pairwise(children):
                if isinstance(child, nn.Conv2d) and isinstance(follower, nn.BatchNorm2d):
                    expected.add(f"{name}.{place}.weight")
    assert {name for name, mask in found.items() if mask.float().mean() > 0.9} == expected
    assert {name for name, mask in found.items() if mask.float().mean() > 0.05} == expected


def test_agrees_with_scaling_the_filters() -> None:
    network = SmallResNet(width=4).double().train()
    images, labels = batch(8)
    found = scale_invariant(network, images.double(), labels)
    for name, w in network.named_parameters():
        if w.ndim > 1:
            before = F.cross_entropy(network(images.double()), labels)
            with torch.no_grad():
                w.mul_(10)
                change = (F.cross_entropy(network(images.double()), labels) - before).abs().item()
                w.div_(10)
            assert (change < 1e-5) == bool(found[name].all()), name


def test_leaves_no_trace() -> None:
    network = SmallResNet(width=4, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images, labels = batch(8)
    state = torch.get_rng_state()
    scale_invariant(network, images, labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(w.grad is None for w in network.parameters())


def test_unused_and_frozen_parameters() -> None:
    network = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    network.forward = lambda x: network["used"](x.mean(dim=(2, 3)))
    found = scale_invariant(network, torch.randn(16, 3, 4, 4), torch.zeros(16, dtype=torch.long))
    assert not found["unused.weight"].any()
