"""``--objective``: any logged metric can select best.ckpt, and early stopping monitors it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.cli.main import main
from regularization.training.inherited_options import with_monitors
from tests.conftest import CONFIGS, rows_of
from tests.training.test_command import QUICK, RUN

Refused = Callable[..., str]
SHORT = ("fit", *QUICK, "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1")
EARLY = ("--config", str(CONFIGS / "with" / "early_stopping.yaml"), "--callbacks.early_stopping.patience", "2")
STOPPED = Path("runs/quickstart+early_stopping/version_0")


class Copies(Callback):
    """Logs the accuracy and the loss again, under other names, and a metric that rises, falls and stays constant."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("score", [1.0, 3.0, 2.0, 2.0, 2.0, 2.0][trainer.current_epoch])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = trainer.callback_metrics
        pl_module.log_dict({"val_mine": logged["val_accuracy"], "val_cost": logged["val_loss"]})


OWN = ("--callbacks.own", f"{__name__}.Copies")


def best_epoch(run: Path) -> int:
    """The epoch of best.ckpt."""
    return int(torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"])


@pytest.mark.parametrize(
    ("objective", "metric", "choose"), [("max:val_mine", "val_accuracy", max), ("min:val_cost", "val_loss", min)]
)
def test_a_copy_of_a_metric_chooses_the_same_epoch(
    objective: str, metric: str, choose: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*SHORT, *OWN, "--trainer.max_epochs", "4", "--objective", objective, "--model.optimizer.lr", "0.5"])
    rows = rows_of(RUN)
    name = objective.partition(":")[2]
    assert [row[name] for row in rows] == [row[metric] for row in rows]
    expected = choose(rows, key=lambda row: row[metric])
    assert best_epoch(RUN) == expected["epoch"]
    assert json.loads((RUN / "result.json").read_text())["best"][metric] == expected[metric]
    epoch = int(expected["epoch"]) + 1
    assert f"best {name} {expected[metric]:.5g} in epoch {epoch}" in capsys.readouterr().out
    config = yaml.safe_load((RUN / "config.yaml").read_text())
    assert config["objective"] == objective


@pytest.mark.parametrize(("objective", "best", "epochs"), [("max:score", 1, 4), ("min:score", 0, 3)])
def test_early_stopping_follows_the_objective(objective: str, best: int, epochs: int) -> None:
    main([*SHORT, *OWN, *EARLY, "--trainer.max_epochs", "6", "--objective", objective])
    assert len(rows_of(STOPPED)) == epochs
    assert best_epoch(STOPPED) == best
    stopping = yaml.safe_load((STOPPED / "config.yaml").read_text())["callbacks"]["early_stopping"]["init_args"]
    assert f"{stopping['mode']}:{stopping['monitor']}" == objective


def early_stopping(objective: str | None = None, options: tuple[str, ...] = (), **arguments: Any) -> dict[str, Any]:
    """The arguments with which EarlyStopping is created."""
    callback = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"patience": 3, **arguments}}
    config: dict[str, Any] = {"callbacks": {"early_stopping": callback, "other": None}}
    config |= {} if objective is None else {"objective": objective}
    completed: dict[str, Any] = with_monitors(config, options)["callbacks"]["early_stopping"]["init_args"]
    assert completed["patience"] == 3
    return completed


def test_what_early_stopping_monitors() -> None:
    loss, accuracy = {"monitor": "val_loss", "mode": "min"}, {"monitor": "val_accuracy", "mode": "max"}
    own = {"monitor": "val_mine", "mode": "max"}
    assert early_stopping() == loss | {"patience": 3}
    assert early_stopping("val_accuracy") == accuracy | {"patience": 3}
    assert early_stopping("max:val_mine") == own | {"patience": 3}
    # The command line wins over the configs.
    for options in (("--objective", "val_accuracy"), ("--objective=val_accuracy",)):
        assert early_stopping("max:val_mine", options) == accuracy | {"patience": 3}
    # Another monitor is not changed.
    assert early_stopping("max:val_mine", monitor="gap_loss") == {"monitor": "gap_loss", "patience": 3}
    for option in ("--callbacks.early_stopping.monitor", "--callbacks.early_stopping.init_args.monitor"):
        assert early_stopping("max:val_mine", (option, "gap_loss")) == loss | {"patience": 3}
    assert early_stopping("max:val_mine", ("--callbacks.other.monitor", "gap_loss")) == own | {"patience": 3}


@pytest.mark.parametrize("every", [1, 2])
def test_a_metric_that_is_never_logged_ends_the_run_after_its_first_validation(
    every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--trainer.check_val_every_n_epoch", str(every), "--trainer.max_epochs", "3"]
    own = ["--callbacks.own", f"{__name__}.Scores"]
    with pytest.raises(SystemExit) as exit_:
        main([*SHORT, *own, *arguments, "--objective", "max:val_scores"])
    assert exit_.value.code == 2
    error, logged = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error.startswith("error: objective: val_scores is not logged (did you mean val_score")
    assert logged.startswith("Logged are accumulated_decay, clean_accuracy, ")
    assert logged.endswith(", val_macro_f1, val_score")
    assert len(rows_of(RUN)) == every
    # A metric that is logged later is not reported as missing before its first validation.
    main([*SHORT, *own, *arguments, "--objective", "max:val_score"])
    assert best_epoch(RUN.with_name("version_1")) == every - 1


class Scores(Callback):
    """Logs a metric with each validation."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val_score", 1.0)


def test_without_validation(capsys: pytest.CaptureFixture[str]) -> None:
    unvalidated = [*SHORT, "--callbacks.own", f"{__name__}.Scores", "--data.val_size", "null"]
    unvalidated += ["--trainer.max_epochs", "1", "--objective"]
    main([*unvalidated, "max:val_score"])
    assert "trained without validation" in capsys.readouterr().out
    main([*unvalidated, "train_loss"])
    assert best_epoch(RUN.with_name("version_1")) == 0
    assert "best training loss " in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main([*unvalidated, "max:score"])
    assert exit_.value.code == 2
    assert "score is not logged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("max:val_mine", "the objective monitors val_mine, which is not a metric"),
        ("val_acc", "val_acc has no known direction (did you mean val_accuracy"),
        ("min:val_accuracy", "val_accuracy is better when higher, so it cannot be min:val_accuracy"),
        ("best of all", "objective: 'best of all' is not a metric"),
    ],
)
def test_a_metric_that_cannot_be_is_refused_before_training(objective: str, message: str, refused: Refused) -> None:
    assert message in refused(*SHORT, "--objective", objective)
    Path("study.yaml").write_text(yaml.safe_dump({"base": QUICK[1], "vary": {"model.optimizer.weight_decay": [0, 1]}}))
    assert message in refused("sweep", "--config", "study.yaml", "--objective", objective, "--resolution", "1")


def test_a_metric_of_unknown_scale_needs_a_resolution(refused: Refused) -> None:
    Path("study.yaml").write_text(yaml.safe_dump({"base": QUICK[1], "objective": "max:val_mine", "arms": {"a": None}}))
    assert "max:val_mine needs resolution, the smallest difference in val_mine" in refused(
        "sweep", "--config", "study.yaml"
    )
