"""Every option of Lightning's Trainer: it works on a tiny run, or is refused in one line."""

import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Trainer

from regularization.cli.main import main
from regularization.models.classifier import ImageClassifier
from tests.conftest import rows_of
from tests.training.test_command import QUICK, RUN

Refused = Callable[..., str]
TINY = (
    *("fit", *QUICK, "--data.batch_size", "16", "--data.eval_batch_size", "16", "--model.lr_scheduler", "null"),
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
)
PRECISION = "lightning.pytorch.plugins.precision.MixedPrecision"

# Values of each option with which a run on the CPU can train; None if there are none.
WORKS: dict[str, list[str] | None] = {
    "accelerator": ["auto"],
    "accumulate_grad_batches": ["2"],
    "barebones": None,
    "benchmark": ["true"],
    "callbacks": ["LearningRateMonitor", "[EMA]"],
    "check_val_every_n_epoch": ["2", "null"],
    "default_root_dir": ["elsewhere", "null"],
    "detect_anomaly": ["true"],
    "deterministic": ["true", "warn"],
    "devices": ["auto"],
    "enable_autolog_hparams": ["false"],
    "enable_checkpointing": ["true"],
    "enable_model_summary": ["true"],
    "enable_progress_bar": ["false"],
    "fast_dev_run": ["2"],
    "gradient_clip_algorithm": ["value --trainer.gradient_clip_val=0.1"],
    "gradient_clip_val": ["1"],
    "inference_mode": ["false"],
    "limit_predict_batches": ["1"],
    "limit_test_batches": ["1"],
    "limit_train_batches": ["0.05"],
    "limit_val_batches": ["0", "0.5"],
    "log_every_n_steps": ["0", "1"],
    "logger": ["false", "true", "TensorBoardLogger --trainer.logger.save_dir=logs"],
    "max_epochs": ["2"],
    "max_steps": ["1"],
    "max_time": ["00:00:10:00"],
    "min_epochs": ["1"],
    "min_steps": ["1"],
    "model_registry": ["name"],
    "num_nodes": ["1"],
    "num_sanity_val_steps": ["-1"],
    "overfit_batches": ["1", "0.2"],
    "plugins": [f"{PRECISION} --trainer.plugins.precision=bf16-mixed --trainer.plugins.device=cpu"],
    "precision": ["bf16-mixed", "bf16-true", "64-true"],
    "profiler": ["simple", "advanced"],
    "reload_dataloaders_every_n_epochs": ["1"],
    "strategy": ["single_device"],
    "sync_batchnorm": ["true"],
    "use_distributed_sampler": None,
    "val_check_interval": ["1", "0.5", "00:00:00:01"],
}
# Values that are refused, with a part of the message.
REFUSED = [
    ("accelerator=gpu", "No supported gpu backend"),
    ("accelerator=tpu", "torch_xla"),
    ("accumulate_grad_batches=0", "--trainer.accumulate_grad_batches must be at least 1, not 0"),
    ("barebones=true", "--trainer.barebones cannot be used"),
    ("callbacks=LearningRateFinder", "LearningRateFinder would train with another value than config.yaml says"),
    ("callbacks=BatchSizeFinder", "and give --data.batch_size"),
    ("check_val_every_n_epoch=0", "--trainer.check_val_every_n_epoch must be at least 1, not 0"),
    ("check_val_every_n_epoch=-1", "must be at least 1, not -1"),
    ("default_root_dir=s3://bucket/runs", "must be a folder of this machine"),
    ("devices=[0]", "--trainer: `devices`"),
    ("enable_checkpointing=false", "--trainer: Trainer was configured with `enable_checkpointing=False`"),
    ("gradient_clip_algorithm=largest", "`gradient_clip_algorithm` largest is invalid"),
    ("gradient_clip_val=-1", "--trainer.gradient_clip_val must be at least 0, not -1"),
    ("limit_train_batches=-1", "invalid value -1 for limit_train_batches"),
    ("limit_val_batches=0.001", "0.001 of the `val_dataloader`"),
    ("log_every_n_steps=-1", "--trainer.log_every_n_steps must be at least 0, not -1"),
    ("logger=WandbLogger", "wandb"),
    ("max_epochs=-2", "`max_epochs` must be a non-negative integer or -1"),
    ("max_time=tomorrow", "is not a valid duration"),
    ("min_epochs=2", "--trainer.min_epochs 2 is more than --trainer.max_epochs 1"),
    ("num_nodes=2", "--trainer.num_nodes 2: start the program on each machine by torchrun or srun"),
    ("num_sanity_val_steps=-5", "must be at least -1, not -5"),
    ("overfit_batches=-1", "invalid value -1 for overfit_batches"),
    ("plugins=lightning.pytorch.plugins.AsyncCheckpointIO", "checkpoints are always written by a plugin of this"),
    (
        "precision=17",
        "trainer.precision: must be one of 64, 32, 16, 'transformer-engine', 'transformer-engine-float16'",
    ),
    ("precision=transformer-engine", "transformer_engine"),
    ("profiler=detailed", "it can only be one of ['simple', 'advanced', 'pytorch', 'xla']"),
    ("profiler=xla", "torch_xla"),
    ("reload_dataloaders_every_n_epochs=-1", "should be an int >= 0"),
    ("strategy=fsdp", "requires a GPU accelerator"),
    ("use_distributed_sampler=true", "--trainer.use_distributed_sampler cannot be used"),
    ("val_check_interval=0", "--trainer.val_check_interval must be above 0"),
    ("val_check_interval=100", "--trainer: `val_check_interval` (100) must be less than or equal to the number of the"),
]


def test_every_option_of_the_trainer_is_tried() -> None:
    assert WORKS.keys() == inspect.signature(Trainer).parameters.keys()
    assert {option for option, values in WORKS.items() if values is None} <= {text.split("=")[0] for text, _ in REFUSED}


@pytest.mark.slow
@pytest.mark.parametrize("option", [f"{name}={value}" for name, values in WORKS.items() for value in values or ()])
def test_an_option_that_works(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, *f"--trainer.{option}".split()])
    said = capsys.readouterr()
    assert "loss accuracy" in said.out
    if "fast_dev_run" not in option:
        (run,) = Path.cwd().rglob("version_0/config.yaml")
        assert rows_of(run.parent)[0]["train_loss"] > 0
        config = yaml.safe_load(run.read_text())["trainer"]
        assert config.keys() == WORKS.keys()


@pytest.mark.parametrize(("option", "message"), REFUSED, ids=[option for option, _ in REFUSED])
def test_an_option_that_is_refused(option: str, message: str, refused: Refused) -> None:
    if message in sys.modules:
        pytest.skip("the package that is missing here is installed")
    assert message in refused(*TINY, f"--trainer.{option}")


@pytest.mark.parametrize("seed", ["-1", "99999999999"])
def test_a_seed_that_numpy_does_not_take(seed: str, refused: Refused) -> None:
    message = refused("fit", *QUICK, "--seed_everything", seed)
    assert f"--seed_everything must be from 0 to 4294967295, not {seed}" in message


def test_overfit_batches_trains_on_the_same_batches_in_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[int, list[int]]] = []
    train = ImageClassifier.training_step

    def watched(self: ImageClassifier, batch: Any, batch_idx: int) -> Any:
        batches.append((self.current_epoch, batch.indices.tolist()))
        return train(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", watched)
    main(["fit", *QUICK, "--trainer.max_epochs", "5", "--trainer.overfit_batches", "2"])
    assert [epoch for epoch, _ in batches] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert {len(indices) for _, indices in batches} == {64}
    first = [indices for epoch, indices in batches if epoch == 0]
    assert all(batches[2 * epoch + i][1] == first[i] for epoch in range(5) for i in range(2))
    rows = rows_of(RUN)
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert all("val_accuracy" in row for row in rows)
    # The batches are those of the first epoch of a usual run.
    first_usual = len(batches)
    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"])
    assert [indices for _, indices in batches[first_usual:]] == first


def test_the_profile_is_printed() -> None:
    texts: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    recorder = Recorder()
    # Lightning also prints its own warnings through this logger.
    logger = logging.getLogger("lightning.pytorch")
    logger.addHandler(recorder)
    try:
        main([*TINY, "--trainer.profiler", "simple"])
    finally:
        logger.removeHandler(recorder)
    (report,) = (text for text in texts if "Profiler Report" in text)
    assert "run_training_epoch" in report
    assert len(texts) == 1, "nothing else that Lightning says on the way"


def test_scoring_makes_none_of_the_loggers_and_callbacks_of_a_run(refused: Refused) -> None:
    loggers = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "logs"]
    callbacks = ["--trainer.callbacks", "LearningRateMonitor", "--callbacks.stats", "LearningRateMonitor"]
    main([*TINY, *loggers, *callbacks])
    (run,) = Path("runs/quickstart").iterdir()
    last = run / "checkpoints" / "last.ckpt"
    written = sorted(Path("logs").rglob("*"))
    main(["test", "--ckpt_path", str(last)])
    main(["validate", *QUICK, *loggers, "--ckpt_path", "best"])
    assert sorted(Path("logs").rglob("*")) == written
    # CSVLogger deletes an existing file, so it must be named by the user.
    assert "the checkpoint names lightning.pytorch.loggers.CSVLogger" in refused("fit", "--ckpt_path", str(last))
    main(["fit", *loggers, "--ckpt_path", str(last), "--trainer.max_epochs", "2"])
    assert len(rows_of(run)) == 2
    # A class that is not even imported cannot do harm.
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["config"]["trainer"]["logger"] = [{"class_path": "elsewhere.Logger"}]
    checkpoint["config"]["callbacks"] = {"x": {"class_path": "elsewhere.Callback"}}
    torch.save(checkpoint, last)
    main(["validate", "--ckpt_path", str(last)])
    assert "elsewhere" in refused("fit", "--ckpt_path", str(last), "--trainer.max_epochs", "3")


def test_an_address_alone_does_not_say_where_the_other_machines_are(
    refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``NODE_RANK`` every machine would act as the first one and wait half an hour for the others."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert "set MASTER_ADDR, MASTER_PORT and NODE_RANK" in refused(*TINY, "--trainer.num_nodes=2")
