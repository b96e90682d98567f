import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets, transforms

from regularization import CIFAR10, Preprocess
from regularization.data.preprocess import square


def by_pil(images: Tensor, side: int) -> Tensor:
    height, width = images.shape[-2:]
    size = (side * width // min(height, width), side * height // min(height, width))
    left, top = ((length - side) // 2 for length in size)
    pil_images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    resized = [image.resize(size, Image.Resampling.BILINEAR) for image in pil_images]
    crops = [np.asarray(image.crop((left, top, left + side, top + side))) for image in resized]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    # Enlarged by odd, even and fractional factors, with ties at 32→40 and 32→192; shrunk; both at once; unchanged.
    [(32, 32, n) for n in (33, 40, 48, 64, 96, 128, 192, 224)]
    + [(8, 8, 32), (28, 28, 32), (64, 64, 32), (100, 100, 37), (300, 300, 32), (20, 70, 32), (32, 32, 32)]
    + [(70, 20, 32), (401, 300, 73), (75, 100, 96), (33, 32, 32)],
)
def test_resize_equals_pil(height: int, width: int, size: int) -> None:
    torch.manual_seed(size)
    images = torch.randint(0, 256, (20, 3, height, width), dtype=torch.uint8)
    assert torch.equal(square(images, size), by_pil(images, size).float())


@pytest.mark.parametrize(("height", "width"), [(120, 90), (64, 256), (73, 73), (50, 51)])
def test_center_crop_equals_torchvision(height: int, width: int) -> None:
    images = torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8)
    # Even margins: with an odd margin torchvision and this module may differ by a pixel.
    pipeline = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.Resize(72),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    whole = torch.stack([pipeline(image) for image in images])
    left, top = ((length - 72) // 2 + 4 for length in (whole.shape[3], whole.shape[2]))
    result = Preprocess(64, resize=72)(images)
    assert torch.equal(result, whole[:, :, top : top + 64, left : left + 64])


@pytest.mark.parametrize("size", [None, 96])
def test_normalizes_like_torchvision(size: int | None) -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    images = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    steps = [transforms.Resize(size)] if size else []
    pipeline = transforms.Compose(
        [transforms.ToPILImage(), *steps, transforms.ToTensor(), transforms.Normalize(mean, std)]
    )
    before = images.clone()
    assert torch.equal(Preprocess(size, mean, std)(images), torch.stack([pipeline(image) for image in images]))
    assert torch.equal(images, before)


def test_1000_cifar_images_equal_torchvision(cifar_root: str) -> None:
    data = CIFAR10(root=cifar_root, val_size=0, image_size=96)
    with pytest.warns(UserWarning, match="no longer independent"):
        data.setup("fit")
    pipeline = transforms.Compose(
        [transforms.Resize(96), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    )
    reference = datasets.CIFAR10(cifar_root, train=True, transform=pipeline)
    expected = torch.stack([reference[index][0] for index in range(1000)])
    assert data.train_set is not None
    assert (data.preprocess(data.train_set[0][torch.arange(1000)][0]) - expected).abs().max() == 0
