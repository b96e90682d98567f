"""The running metrics, against means over the batches computed by NumPy."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regularization.callbacks.progress_bar import ProgressBar
from regularization.callbacks.running_metrics import RunningMetrics
from regularization.cli.main import main
from regularization.models.classifier import ImageClassifier
from tests.conftest import BASE
from tests.models.test_classifier import trainer

RUN = Path("runs/quickstart/version_0")
SHORT = [f"--config={BASE}", "--model.network.width=4", "--trainer.accelerator=cpu"]
SHORT += ["--trainer.max_epochs=2", "--data.batch_size=100", "--trainer.log_every_n_steps=5"]


class BatchRecorder(Callback):
    """Records (epoch, loss, number of images) of each batch."""

    batches: ClassVar[list[tuple[int, float, int]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((trainer.current_epoch, outputs["loss"].item(), len(batch.labels)))


def logged(name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(RUN))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_means_are_over_the_steps_since_the_last_time(accumulated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchRecorder, "batches", [])
    options = [f"--trainer.accumulate_grad_batches={accumulated}", f"--trainer.log_every_n_steps={5 // accumulated}"]
    main(["fit", *SHORT, *options, f"--trainer.callbacks+={__name__}.BatchRecorder"])
    assert len(BatchRecorder.batches) == 24  # twelve per epoch, of which the last one is smaller
    # The number of batches after each optimizer step: a multiple of ``accumulated``, or the end of an epoch.
    ends = [end for end in range(1, 25) if end % accumulated == 0 or end % 12 == 0]
    logged_ends = ends[5 // accumulated - 1 :: 5 // accumulated]
    expected = []
    for index, end in enumerate(logged_ends):
        epoch = BatchRecorder.batches[end - 1][0]
        start = max(logged_ends[index - 1] if index else 0, 12 * epoch)
        part = np.array(BatchRecorder.batches[start:end])
        expected.append(np.average(part[:, 1] * accumulated, weights=part[:, 2]))
    losses = logged("running/train_loss")
    assert [step + 1 for step, _ in losses] == [(index + 1) * (5 // accumulated) for index in range(len(logged_ends))]
    assert [value for _, value in losses] == pytest.approx(expected, rel=1e-5)
    assert all(0 <= value <= 1 for _, value in logged("running/train_accuracy"))
    assert "running" not in (RUN / "metrics.csv").read_text(), "metrics.csv has one row per epoch"


def test_there_are_none_without_an_interval() -> None:
    main(["fit", *SHORT, "--trainer.log_every_n_steps=0"])
    assert (RUN / "metrics.csv").is_file()


def test_the_progress_bar_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    running, bar = RunningMetrics(), ProgressBar()
    running.means = {"train_loss": 0.5, "train_accuracy": 0.75}
    metrics = bar.get_metrics(trainer(1, callbacks=[running]), ImageClassifier.__new__(ImageClassifier))
    assert metrics == {"train_loss": 0.5, "train_accuracy": 0.75}
