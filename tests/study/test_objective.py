"""A study with a user-defined metric as its objective, from the config to the table."""

import json
from pathlib import Path

import optuna
import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from regularization.cli.main import main
from regularization.study.config import Study
from regularization.study.results import read_rows
from tests.conftest import BASE
from tests.study.analysis.synthetic import make_results
from tests.study.test_sweep import LAMBDA, OPTIONS, STUDY, table


class Copies(Callback):
    """Logs the validation loss again, under another name."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val_cost", trainer.callback_metrics["val_loss"])


def test_a_copy_of_the_loss_is_the_objective_of_a_study() -> None:
    # ``hours`` limits one start of ``fit``. It does not apply to a trial, which runs to its end.
    Path("base.yaml").write_text(
        yaml.safe_dump({"hours": 1e-9, "callbacks": {"own": {"class_path": f"{__name__}.Copies"}}})
    )
    study = {"base": [str(BASE), "base.yaml"], "options": OPTIONS, "objective": "min:val_cost", "resolution": 1}
    study |= {"vary": {LAMBDA: [0, 1]}, "seeds": 1, "score": "best"}
    Path("tiny.yaml").write_text(yaml.safe_dump(study))
    main(["sweep", "--config", "tiny.yaml", "--threads", "1", "--workers", "2"])
    rows = table()
    for row in rows:
        assert row["val_cost"] == row["val_loss"]
        every = [epoch["val_loss"] for epoch in read_rows(Path(row["folder"]))]
        assert float(row["val_loss"]) == min(every)
        assert json.loads((Path(row["folder"]) / "result.json").read_text())["best"]["val_loss"] == min(every)
    journal = JournalStorage(JournalFileBackend(str(STUDY / "optuna" / "journal.log")))
    recorded = optuna.load_study(study_name="tiny/version_0", storage=journal)
    assert recorded.direction == StudyDirection.MINIMIZE
    complete = {trial.user_attrs["run"]: trial.value for trial in recorded.trials if trial.value is not None}
    found = {Path(row["folder"]).relative_to(STUDY).as_posix(): float(row["val_cost"]) for row in rows}
    assert complete == found
    page = (STUDY / "report.html").read_text()
    assert "val_cost by epoch" in page
    assert '<th aria-sort="none" tabindex="0">val_cost</th>' in page


def test_a_search_takes_the_better_arms() -> None:
    (run,) = make_results("none", [0.5], metrics={"val_cost": 3.0, "val_mine": 2.0})
    assert run.score(Study(objective="min:val_cost")) == -3.0
    assert run.score(Study(objective="max:val_mine")) == 2.0
