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
    """Records the batches that it is trained on, and counts the images that it is validated on."""

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
    # 40% of 12 steps are 4.8 steps.
    assert sides == [5] * 5 + [8] * 7
    assert data.calibration_sample().shape[-2:] == (5, 5)
    assert data.preprocess(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape[-1] == 8


def test_small_images_need_the_length_of_the_training() -> None:
    with pytest.raises(UserError, match=r"--data\.early_size requires --trainer\.max_epochs or --trainer\.max_steps"):
        trained(Digits(early_size=5), max_epochs=-1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_size": 0}, "--data.early_size must be at least 1, not 0"),
        ({"batch_size": 0}, "--data.batch_size must be at least 1, not 0"),
        ({"crop_padding": -1}, "--data.crop_padding must be at least 0, not -1"),
        ({"early_size": 5, "early_share": 1.5}, "--data.early_share must be between 0 and 1, not 1.5"),
    ],
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Digits(**options)


def test_without_held_out_images_there_is_no_validation() -> None:
    data = Digits(batch_size=500, val_size=None)
    recorder = trained(data, max_epochs=1)
    assert sum(len(batch.labels) for batch in recorder.trained) == 1437
    assert recorder.validated == 0
    assert data.test_set is None
    assert data.describe() == "Digits: 1,437 training images, 0 validation images"


def test_batches_do_not_depend_on_where_the_images_are_kept() -> None:
    batches = [
        trained(Digits(on_device=on_device, flip=True, crop_padding=1), max_epochs=2).trained
        for on_device in (False, True)
    ]
    for in_memory, on_device in zip(*batches, strict=True):
        assert torch.equal(in_memory.images, on_device.images)
        assert torch.equal(in_memory.labels, on_device.labels)
