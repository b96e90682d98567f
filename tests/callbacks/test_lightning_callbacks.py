"""Lightning's own callbacks in a run of this program."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler

from regularization import EMA, Digits, ImageClassifier, SmallResNet, WarmupDecay, load
from regularization.callbacks import history
from regularization.cli.main import main
from regularization.errors import UserError
from tests.conftest import rows_of
from tests.models.test_classifier import trainer
from tests.training.test_command import QUICK, RUN

Refused = Callable[..., str]
SHORT = ("fit", *QUICK, "--trainer.limit_train_batches", "4", "--trainer.limit_val_batches", "2")
LAST = RUN / "checkpoints" / "last.ckpt"
CALLBACKS = "lightning.pytorch.callbacks"


def test_stochastic_weight_averaging() -> None:
    swa = ["--callbacks.swa", f"{CALLBACKS}.StochasticWeightAveraging", "--callbacks.swa.swa_lrs", "0.01"]
    options = [*SHORT, *swa, "--callbacks.swa.swa_epoch_start", "1", "--model.lr_scheduler", "null"]
    main([*options, "--trainer.max_epochs", "2"])
    # The last epoch trains nothing: it measures the statistics of batch norm for the average of the epochs before.
    rows = rows_of(RUN)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert math.isnan(rows[2]["decay_share"])
    assert not any(math.isnan(row["decay_share"]) for row in rows[:2])
    assert rows[2]["norm/stem"] != rows[1]["norm/stem"]
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["callbacks"]["swa"]["init_args"]["device"] == "cpu"
    # The written config.yaml can be read again.
    main(["fit", "--config", str(RUN / "config.yaml"), "--ckpt_path", str(LAST), "--trainer.max_epochs", "4"])
    assert len(rows_of(RUN)) > 3


def test_pruning() -> None:
    pruning = ["--callbacks.p", f"{CALLBACKS}.ModelPruning", "--callbacks.p.pruning_fn", "l1_unstructured"]
    main([*SHORT, *pruning, "--callbacks.p.amount", "0.3", "--trainer.max_epochs", "2"])
    rows = rows_of(RUN)
    # The callback prunes at the end of the first epoch: 30% of all parameters, nearly all of which are weights.
    assert rows[0]["sparsity"] == 0
    assert rows[1]["sparsity"] == pytest.approx(0.3, abs=0.02)
    assert "norm/stem" in rows[1]
    assert not any("_orig" in name for name in rows[1])
    weights = torch.load(LAST, weights_only=True)["state_dict"]
    kernels = [w for name, w in weights.items() if name.endswith("weight") and w.ndim > 1]
    # The weights are pruned once more after the last measurement: 30% of the remaining ones.
    zeros = sum((w == 0).sum().item() for w in kernels) / sum(w.numel() for w in kernels)
    assert zeros == pytest.approx(1 - 0.7**2, abs=0.03)
    assert load(RUN).classes == tuple("0123456789")
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["callbacks"]["p"]["init_args"]["pruning_fn"] == "l1_unstructured"
    main(["fit", "--config", str(RUN / "config.yaml"), "--ckpt_path", str(LAST), "--trainer.max_epochs", "3"])
    assert len(rows_of(RUN)) == 3


def test_a_changing_accumulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    seconds: list[float] = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    rows = history.History(tmp_path)

    measure = history.History._seconds_left

    def noted(self: history.History, fitted: Any) -> float:
        left = measure(self, fitted)
        seconds.extend([left] if left else [])
        return left

    monkeypatch.setattr(history.History, "_seconds_left", noted)
    classifier = ImageClassifier(SmallResNet(width=4), lr_scheduler=WarmupDecay)
    changing = GradientAccumulationScheduler({1: 3, 2: 6})
    fitted = trainer(4, limit_train_batches=6, limit_val_batches=1, callbacks=[changing, Rates(), rows])
    fitted.fit(classifier, Digits())
    # 6 + 2 + 1 + 1 steps, and the schedule of the learning rate has that length.
    assert classifier.optimization.steps == len(rates) == 10
    assert classifier.optimization.steps_per_epoch == 3
    expected = WarmupDecay(torch.optim.SGD([torch.zeros(1)], lr=0.01), total_steps=10).factor
    assert rates == pytest.approx([0.01 * expected(step) for step in range(10)])
    # The estimated time left is that of 3, 2 and 1 epochs, each as long as the epochs before.
    done = [row["seconds"] for row in rows.rows]
    assert len(seconds) == 3
    for epoch, left in enumerate(seconds):
        assert left == pytest.approx(sum(done[: epoch + 1]) / (epoch + 1) * (3 - epoch), rel=0.5, abs=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["EarlyStopping", "monitor=val_acc"],
            "EarlyStopping monitors val_acc, which is not a metric (did you mean val_a",
        ),
        (
            ["EarlyStopping", "monitor=val_accuracy"],
            "EarlyStopping monitors val_accuracy, which is better when higher: ",
        ),
        (["EarlyStopping", "monitor=val_loss", "mode=max"], "its mode must be min, not max"),
        (["ModelCheckpoint", "monitor=val_los"], "ModelCheckpoint monitors val_los, which is not a metric"),
        (
            ["ModelCheckpoint", "monitor=val_accuracy"],
            "ModelCheckpoint monitors val_accuracy, which is better when higher",
        ),
    ],
)
def test_a_monitor_is_checked_before_training(options: list[str], message: str, refused: Refused) -> None:
    name, *arguments = options
    words = [f"--callbacks.it={CALLBACKS}.{name}", *(f"--callbacks.it.{argument}" for argument in arguments)]
    assert message in refused(*SHORT, *words)
    if name == "EarlyStopping":
        stopping = ["--callbacks.it", "EarlyStopping", "--callbacks.it.monitor", "val_loss"]
        assert "but there are no validation images" in refused(*SHORT, *stopping, "--data.val_size", "null")


def test_the_monitor_of_a_scheduler_is_checked_before_training(refused: Refused) -> None:
    plateau = ["--model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor"]
    assert "the scheduler monitors val_acc, which is not a metric" in refused(*SHORT, *plateau, "val_acc")
    assert "the scheduler monitors val_accuracy, which is better when higher" in refused(
        *SHORT, *plateau, "val_accuracy"
    )


def test_every_metric_of_a_run_can_be_monitored() -> None:
    main([*SHORT, "--trainer.max_epochs", "1", "--model.penalties.l1", "L1", "--model.penalties.l1.strength", "1e-4"])
    logged = rows_of(RUN)[0].keys() - {"epoch", "step", "lr", "seconds"}
    assert {"penalty/l1", "norm/stem", "gap_loss", "val_calibration_error"} <= logged
    classifier = ImageClassifier(SmallResNet(width=4))
    classifier.trainer = trainer(1)
    for metric in logged:
        right = "max" if metric.endswith(("accuracy", "f1")) and not metric.startswith("gap") else "min"
        classifier._check_monitor("EarlyStopping", metric, right)


def test_metrics_of_other_classes_can_be_monitored() -> None:
    class Other(Callback):
        """May log anything."""

    classifier = ImageClassifier(SmallResNet(width=4))
    classifier.trainer = trainer(1, callbacks=[EMA()])
    with pytest.raises(UserError, match="my_metric"):
        classifier._check_monitor("EarlyStopping", "my_metric", "min")
    classifier.trainer = trainer(1, callbacks=[Other()])
    classifier._check_monitor("EarlyStopping", "my_metric", "min")


@pytest.mark.skipif(find_spec("psutil") is not None, reason="psutil is installed")
def test_device_stats_without_psutil(refused: Refused) -> None:
    message = refused(*SHORT, "--callbacks.stats", "DeviceStatsMonitor")
    assert "--trainer: `DeviceStatsMonitor` cannot log CPU stats as `psutil` is not installed" in message
