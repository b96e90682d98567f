"""The part ``path``: the path of an image from memory to the network's input, in images/s on one thread of the CPU.

The images are random ones of 32×32, because their content does not affect the speed. ``whole`` is what a training step
of ``configs/cifar10.yaml`` at 96×96 would do: gather, crop, flip, resize, normalize.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from regularization.data.augmentation.augment import Augment
from regularization.data.preprocess import Preprocess
from regularization.data.readers import Images
from regularization.training.memory import retain_freed_memory
from tests.benchmarks.speed.rounds import alternately
from tests.benchmarks.speed.rows import Row, Target, median
from tests.benchmarks.speed.settings import Settings

SIZE = 96
OURS = ("gather", "augment", "preprocess", "whole")
PIL = "PIL and torchvision"


class Path:
    """The steps of the path, for batches of ``batch_size`` out of ``count`` images."""

    def __init__(self, batch_size: int, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        self.images = Images(pixels, torch.zeros(count, dtype=torch.int64), ("",))
        order = torch.randperm(count, generator=generator)
        self.indices = itertools.cycle(torch.split(order, batch_size)[: count // batch_size])
        self.augmentation = Augment(flip=True, crop_padding=4)
        self.preparation = Preprocess(SIZE)
        self.batch, _, self.index = self.images[next(self.indices)]
        self.pictures = [Image.fromarray(image.numpy()) for image in self.batch.movedim(1, -1)]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.Resize(SIZE),
                transforms.ToTensor(),
                transforms.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
            ]
        )

    def gather(self) -> Tensor:
        """A batch out of all images."""
        return self.images[next(self.indices)][0]

    def augment(self) -> Tensor:
        """Crop and flip of a batch."""
        result: Tensor = self.augmentation(self.batch, self.index, 1)
        return result

    def preprocess(self) -> Tensor:
        """Resize and normalization of a batch."""
        result: Tensor = self.preparation(self.batch)
        return result

    def whole(self) -> Tensor:
        """All steps of the path."""
        pixels, _, index = self.images[next(self.indices)]
        result: Tensor = self.preparation(self.augmentation(pixels, index, 1))
        return result

    def pil(self) -> Tensor:
        """The same with PIL, image by image, from PIL images in memory."""
        return torch.stack([self.transform(picture) for picture in self.pictures])


def measure(settings: Settings) -> list[Row]:
    """Each step and all of them, at two batch sizes, and PIL's speed for all of them."""
    retain_freed_memory()
    with one_thread():
        return [row for batch_size in (64, 512) for row in _rows(settings, batch_size)]


def _rows(settings: Settings, batch_size: int) -> list[Row]:
    path = Path(batch_size, settings.size(50_000, 2048))
    times = settings.size(30, 2)
    ours = {name: partial(rate, getattr(path, name), batch_size, times) for name in OURS}
    values = alternately(settings.rounds, ours | {PIL: partial(rate, path.pil, batch_size, settings.size(3, 1))})
    at = f"batch {batch_size}"
    steps = [median(f"{name}, {at}", values[name], "images/s") for name in OURS[:-1]]
    note = f"gather, crop, flip, resize to {SIZE}, normalize; one thread"
    whole = values["whole"]
    return [*steps, median(f"whole, {at}", whole, "images/s", PIL, values[PIL], Target(20_000), note)]


def rate(function: Callable[[], Tensor], images: int, times: int) -> float:
    """Images/s: the median over ``times`` calls in a row, after one call that is not timed."""
    function()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return images / statistics.median(seconds)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on a single thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
