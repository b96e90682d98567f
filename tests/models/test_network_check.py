"""Networks that do not fit their images or classes are refused before training; the error names the option to set."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from regularization import SmallResNet, UserError, WhitenedNet
from regularization.models.network_check import check_network
from tests.data.test_image_folder import draw
from tests.training.test_command import QUICK

Refused = Callable[..., str]


def tiny_vit() -> nn.Module:
    network: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=2, depth=1, embed_dim=24)
    return network


def vit_b_16() -> nn.Module:
    network: nn.Module = torchvision.models.VisionTransformer(224, 16, 1, 2, 8, 16, num_classes=2)
    return network


@pytest.mark.parametrize(
    ("make", "size", "advice"),
    [
        (tiny_vit, 32, "--data.image_size 224, or --model.network.dict_kwargs.img_size 32"),
        (vit_b_16, 64, "--data.image_size 224, or --model.network.image_size 64"),
        (lambda: torchvision.models.alexnet(num_classes=2), 8, "--data.image_size 64"),
        (lambda: torchvision.models.squeezenet1_1(num_classes=2), 8, "--data.image_size 24"),
    ],
    ids=["timm", "torchvision", "alexnet", "squeezenet"],
)
def test_images_of_a_size_that_the_network_rejects(make: Callable[[], nn.Module], size: int, advice: str) -> None:
    with pytest.raises(UserError) as error:
        check_network(make(), (size, size), 2, training=True)
    message, _, last = str(error.value).partition("\n")
    assert f"does not accept images of {size}×{size} pixels (" in message
    assert last == f"set {advice}"


class Auxiliary(nn.Module):
    """Like inception_v3: it returns more in training, and needs larger images for that."""

    aux_logits = True

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        logits = images.mean((2, 3))
        if not self.training:
            return logits
        if min(images.shape[2:]) < 75:
            raise RuntimeError("Output size is too small")
        return logits, logits


def test_networks_with_auxiliary_logits() -> None:
    check_network(Auxiliary(), (32, 32), 3, training=False)
    with pytest.raises(UserError, match=r"32×32 pixels .*\nset --data.image_size 96"):
        check_network(Auxiliary(), (32, 32), 3, training=True)
    check_network(Auxiliary(), (96, 96), 3, training=True)


def test_other_errors_of_a_network_are_left_to_the_training() -> None:
    check_network(nn.Conv2d(4, 2, 1), (32, 32), 2, training=True)
    with pytest.raises(UserError, match="WhitenedNet needs images of 9×9"):
        check_network(WhitenedNet(), (8, 8), 10, training=True)


def test_the_check_changes_neither_the_network_nor_the_random_state() -> None:
    network = nn.Sequential(SmallResNet(num_classes=5, width=4, dropout=0.5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    check_network(network, (32, 48), 5, training=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert network.training


def test_on_the_command_line(refused: Refused) -> None:
    draw(Path("pets"), {"cat": 10, "dog": 10})
    folder = ["fit", "--config", "folder", "--data.root", "pets", "--data.image_size", "32", "--model.network"]
    message = refused(*folder, "timm.create_model", "--model.network.model_name", "vit_tini_patch16_224")
    assert "timm has no vit_tini_patch16_224 (did you mean vit_tiny_patch16_224" in message
    assert "must return logits of shape (images, classes), not a tensor of shape (2, 3, 32, 32)" in refused(
        *folder, "torch.nn.Identity"
    )
    early = ["--model.network", "regularization.WhitenedNet", "--data.image_size", "16", "--data.early_size", "8"]
    assert "WhitenedNet needs images of 9×9" in refused("fit", *QUICK, *early)
