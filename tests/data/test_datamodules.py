from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from regularization import Digits
from regularization.data.sampling import Batch
from regularization.errors import UserError

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Recorder(LightningModule):
    """Keeps the batches that it is trained and validated on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained: list[Batch] = []
        self.validated = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.trained.append(batch)
        return self.weight**2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(data: Digits, **limits: Any) -> Recorder:
    recorder = Recorder()
    Trainer(**QUIET, **limits).fit(recorder, data)
    return recorder


def test_images_are_small_for_the_first_part_of_the_steps() -> None:
    data = Digits(batch_size=300, val_size=237, image_size=8, early_size=5, early_share=0.4)
    sides = [batch.images.shape[-1] for batch in trained(data, max_epochs=3).trained]
    # 12 steps, of which 4.8 are 40%.
    assert sides == [5] * 5 + [8] * 7
    assert data.calibration_sample().shape[-2:] == (5, 5)
    assert data.preprocess(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape[-1] == 8


def test_small_images_need_an_end() -> None:
    with pytest.raises(UserError, match="early_size needs to know the end"):
        trained(Digits(early_size=5), max_epochs=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_size": 0}, "--data.early_size must be at least 1, not 0"),
        ({"early_size": 5, "early_share": 1.5}, "--data.early_share must lie in 0 to 1, not 1.5"),
    ],
)
def test_sizes_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Digits(**options)


def test_nothing_held_out_is_nothing_validated() -> None:
    data = Digits(batch_size=500, val_size=None)
    recorder = trained(data, max_epochs=1)
    assert sum(len(batch.labels) for batch in recorder.trained) == 1437
    assert recorder.validated == 0
    assert data.test_set is None
    assert data.describe() == "Digits: 1,437 images to train, none to validate"


def test_batches_are_the_same_wherever_the_images_live() -> None:
    batches = [
        trained(Digits(on_device=on_device, flip=True, crop_padding=1), max_epochs=2).trained
        for on_device in (False, True)
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
