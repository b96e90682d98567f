"""The running loss, against means that NumPy takes of every batch's."""

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
from tests.conftest import CONFIGS
from tests.models.test_classifier import trainer

RUN = Path("runs/quickstart/version_0")
SHORT = [f"--config={CONFIGS / 'quickstart.yaml'}", "--model.network.width=4", "--trainer.accelerator=cpu"]
SHORT += ["--trainer.max_epochs=2", "--data.batch_size=100", "--trainer.log_every_n_steps=5"]


class Written(Callback):
    """Keeps each batch's (epoch, loss, images)."""

    batches: ClassVar[list[tuple[int, float, int]]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((trainer.current_epoch, outputs["loss"].item(), len(batch.labels)))


def logged(name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(RUN))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.mark.parametrize("accumulated", [1, 3])
def test_means_of_the_steps_since_the_last_time(accumulated: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Written, "batches", [])
    more = [f"--trainer.accumulate_grad_batches={accumulated}", f"--trainer.log_every_n_steps={5 // accumulated}"]
    main(["fit", *SHORT, *more, f"--trainer.callbacks+={__name__}.Written"])
    assert len(Written.batches) == 24  # twelve an epoch, the last one smaller
    # One more number: what was trained on after each optimizer step, of batches by three the end of an epoch as well.
    ends = [end for end in range(1, 25) if end % accumulated == 0 or end % 12 == 0]
    told = ends[5 // accumulated - 1 :: 5 // accumulated]
    expected = []
    for place, end in enumerate(told):
        epoch = Written.batches[end - 1][0]
        since = max(told[place - 1] if place else 0, 12 * epoch)
        part = np.array(Written.batches[since:end])
        expected.append(np.average(part[:, 1] * accumulated, weights=part[:, 2]))
    losses = logged("running/train_loss")
    assert [step + 1 for step, _ in losses] == [(place + 1) * (5 // accumulated) for place in range(len(told))]
    assert [value for _, value in losses] == pytest.approx(expected, rel=1e-5)
    assert all(0 <= value <= 1 for _, value in logged("running/train_accuracy"))
    assert "running" not in (RUN / "metrics.csv").read_text(), "the table has a row an epoch"


def test_none_where_none_are_wanted() -> None:
    main(["fit", *SHORT, "--trainer.log_every_n_steps=0"])
    assert (RUN / "metrics.csv").is_file()


def test_the_bar_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    running, bar = RunningMetrics(), ProgressBar()
    running.means = {"train_loss": 0.5, "train_accuracy": 0.75}
    shown = bar.get_metrics(trainer(1, callbacks=[running]), ImageClassifier.__new__(ImageClassifier))
    assert shown == {"train_loss": 0.5, "train_accuracy": 0.75}
