"""A run that is stopped and continued: exactly as before, or with the options that were changed."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import regularization
from regularization.cli.main import main
from regularization.data.image_data import ImageData
from regularization.models.classifier import ImageClassifier
from regularization.runs import checkpoint_io
from regularization.runs.directory import add_result, read_result
from tests.conftest import Rows, rows_of
from tests.training.test_command import QUICK, RUN, Refused, interrupt_at

LAST = RUN / "checkpoints" / "last.ckpt"
SHORT = (*QUICK, "--trainer.limit_val_batches", "1", "--trainer.limit_train_batches", "4", "--trainer.max_epochs", "4")


def without_clock(rows: Rows) -> Rows:
    return [row | {"seconds": 0.0} for row in rows]


def state(path: Path = LAST) -> Any:
    return torch.load(path, weights_only=True)


def group() -> dict[str, float]:
    group: dict[str, float] = state()["optimizer_states"][0]["param_groups"][0]
    return group


def stop_after(epochs: int, *more: str) -> None:
    """Runs ``fit`` and stops it by Ctrl-C in the epoch after the given number of epochs."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(4 * epochs + 1, patch)
        with pytest.raises(SystemExit):
            main(["fit", *SHORT, *more])


@pytest.mark.parametrize("noise", [False, True])
def test_continues_exactly(noise: bool, two_threads: None) -> None:
    augmented = ["--data.flip", "true", "--data.crop_padding", "1"]
    if noise:
        augmented += ["--model.network.dropout", "0.3", "--model.network.stochastic_depth", "0.3"]
        augmented += ["--model.network.drop_block", "0.2"]
        augmented += ["--model.mixing", "torchvision.transforms.v2.MixUp", "--model.mixing.alpha", "0.2"]
    main(["fit", *SHORT, *augmented])
    uninterrupted, rows, best = state(), rows_of(RUN), state(RUN / "checkpoints" / "best.ckpt")
    for file in sorted(RUN.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    RUN.rmdir()

    stop_after(2, *augmented)
    main(["fit", *SHORT, *augmented, "--ckpt_path", "last"])
    assert [folder.name for folder in RUN.parent.iterdir()] == ["version_0"]
    assert without_clock(rows_of(RUN)) == without_clock(rows)
    for checkpoint, reference in ((state(), uninterrupted), (state(RUN / "checkpoints" / "best.ckpt"), best)):
        torch.testing.assert_close(checkpoint["state_dict"], reference["state_dict"], rtol=0, atol=0)
        assert checkpoint["lr_schedulers"] == reference["lr_schedulers"]
    momentum, expected = (
        [buffers["momentum_buffer"] for buffers in checkpoint["optimizer_states"][0]["state"].values()]
        for checkpoint in (state(), uninterrupted)
    )
    torch.testing.assert_close(momentum, expected, rtol=0, atol=0)


def test_options_that_are_not_given_stay() -> None:
    stop_after(1, "--model.optimizer.weight_decay", "0.003", "--data.batch_size", "32")
    main(["fit", "--ckpt_path", str(LAST)])
    assert group()["weight_decay"] == 0.003
    config = state()["config"]
    assert config["data"]["init_args"]["batch_size"] == 32
    assert config["trainer"]["max_epochs"] == 4
    assert len(rows_of(RUN)) == 4


def test_rows_past_the_checkpoint_are_dropped() -> None:
    main(["fit", *SHORT, "--trainer.max_epochs", "2"])
    early = RUN / "checkpoints" / "early.ckpt"
    early.write_bytes(LAST.read_bytes())
    before = rows_of(RUN)
    main(["fit", *SHORT, "--ckpt_path", "last"])
    assert len(rows_of(RUN)) == 4
    main(["fit", "--ckpt_path", str(early), "--trainer.max_epochs", "3"])
    rows = rows_of(RUN)
    assert rows[:2] == before
    assert [row["epoch"] for row in rows] == [0, 1, 2]


def test_a_moved_run_keeps_its_best_score() -> None:
    stop_after(3)
    moved = Path("elsewhere/moved/version_7")
    moved.parent.mkdir(parents=True)
    RUN.rename(moved)
    checkpoint = moved / "checkpoints" / "last.ckpt"
    content = state(checkpoint)
    key = next(name for name in content["callbacks"] if name.startswith("Best"))
    content["callbacks"][key]["best_model_score"] = torch.tensor(2.0)  # better than anything that follows
    torch.save(content, checkpoint)
    best = (moved / "checkpoints" / "best.ckpt").read_bytes()
    main(["fit", "--ckpt_path", str(checkpoint)])
    assert (moved / "checkpoints" / "best.ckpt").read_bytes() == best
    assert len(rows_of(moved)) == 4


def test_a_finished_run_is_not_changed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *SHORT, "--trainer.max_epochs", "1"])
    rows = rows_of(RUN)
    capsys.readouterr()
    main(["fit", *SHORT, "--trainer.max_epochs", "1", "--ckpt_path", "last"])
    assert "nothing left to train: 1 epoch is done and --trainer.max_epochs is 1" in capsys.readouterr().out
    assert rows_of(RUN) == rows


def test_another_network_or_optimizer_is_rejected(refused: Refused) -> None:
    main(["fit", *SHORT, "--trainer.max_epochs", "2"])
    other = refused("fit", *SHORT, "--ckpt_path", "last", "--model.network.width", "8")
    assert "is from another network: network.stem.weight is (4, 3, 3, 3) there and (8, 3, 3, 3)" in other
    adam = refused("fit", *SHORT, "--ckpt_path", "last", "--model.optimizer", "AdamW")
    assert "the checkpoint's optimizer is SGD, but the config asks for AdamW" in adam
    assert yaml.safe_load((RUN / "config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_a_run_keeps_its_objective(refused: Refused) -> None:
    """Otherwise best.ckpt would not be that of the epoch that is called the best."""
    main(["fit", *SHORT, "--trainer.max_epochs", "1"])
    more = ["--trainer.max_epochs", "2", "--ckpt_path", "last"]
    message = refused("fit", *SHORT, *more, "--objective", "val_loss")
    assert "--objective: the run that is continued keeps its best epoch by val_accuracy" in message
    main(["fit", *SHORT, *more, "--objective", "val_accuracy"])
    assert len(rows_of(RUN)) == 2


def test_scores_of_a_network_that_was_tested_during_the_training_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    train = ImageClassifier.on_train_epoch_start

    def tested(self: ImageClassifier) -> None:
        add_result(RUN, {"test": {"test_accuracy": 0.5}})
        train(self)

    monkeypatch.setattr(ImageClassifier, "on_train_epoch_start", tested)
    main(["fit", *SHORT, "--trainer.max_epochs", "1"])
    assert read_result(RUN).keys() >= {"best", "last"}
    assert "test" not in read_result(RUN)


def test_a_folder_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lightning expands ~ in some paths only, so that a run would lie in two places."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    main(["fit", *SHORT, "--trainer.max_epochs", "1", "--trainer.default_root_dir=~/mine"])
    run = tmp_path / "home" / "mine" / RUN.parent.name / RUN.name
    assert {"last.ckpt", "best.ckpt"} <= {path.name for path in (run / "checkpoints").iterdir()}
    assert (run / "metrics.csv").is_file()
    assert not Path("~").exists()
    main(["validate", f"--ckpt_path=~/mine/{RUN.parent.name}/{RUN.name}"])


def test_files_that_are_not_checkpoints_are_rejected(refused: Refused, tmp_path: Path) -> None:
    main(["fit", *SHORT, "--trainer.max_epochs", "1"])
    whole = LAST.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    torch.save({"weights": torch.zeros(1)}, tmp_path / "weights.ckpt")
    cases = {
        b"": "is not a complete checkpoint",
        whole[:-100]: "is not a complete checkpoint",
        whole[: len(whole) // 2]: "is not a complete checkpoint",
        b"not a checkpoint": "is not a complete checkpoint",
        bytes(flipped): "is damaged: the checksum of its part",
        (tmp_path / "weights.ckpt").read_bytes(): "is a PyTorch file but not a checkpoint",
    }
    for content, message in cases.items():
        (tmp_path / "bad.ckpt").write_bytes(content)
        for command in ("fit", "test"):
            assert message in refused(command, *SHORT, "--ckpt_path", "bad.ckpt")


def test_an_epoch_that_max_steps_cut_short_counts_as_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    train = ImageClassifier.training_step

    def watched(self: ImageClassifier, batch: Any, batch_idx: int) -> Any:
        seen.append(batch[1].numpy().tobytes())
        return train(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", watched)
    constant = (*QUICK, "--model.lr_scheduler", "null", "--trainer.max_epochs", "2")
    main(["fit", *constant])
    uninterrupted = seen.copy()
    seen.clear()
    main(["fit", *constant, "--trainer.max_steps", "7"])
    main(["fit", *constant, "--trainer.max_steps", "-1", "--ckpt_path", "last"])
    assert seen == [*uninterrupted[:7], *uninterrupted[18:]]


@pytest.mark.parametrize("batch_size", [64, 20, 300, 2000])
def test_the_batch_size_may_change_within_an_epoch(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    transfer = ImageData.on_after_batch_transfer

    def watched(self: ImageData, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer and self.trainer.training and self.trainer.current_epoch == 1:
            seen.extend(batch[2].tolist())
        return transfer(self, batch, dataloader_idx)

    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(18 + 4, patch)
        with pytest.raises(SystemExit):
            main(["fit", *QUICK])
    monkeypatch.setattr(ImageData, "on_after_batch_transfer", watched)
    options = ["--data.batch_size", str(batch_size), "--trainer.max_epochs", "3"]
    main(["fit", *QUICK, *options, "--ckpt_path", "last"])
    remaining = 1149 - 5 * 64
    del seen[:64]  # the batch of the parameter report
    assert len(set(seen)) == len(seen) == remaining
    rows = rows_of(RUN)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["step"] - 18 - 5 for row in rows[1:]] == [
        -(-remaining // batch_size),
        -(-remaining // batch_size) - (-1149 // batch_size),
    ]


def test_the_batch_size_may_change_twice_in_an_epoch() -> None:
    for step, size in ((4, 64), (9, 100)):
        with pytest.MonkeyPatch.context() as patch:
            interrupt_at(step, patch)
            more = ["--ckpt_path", "last"] if LAST.exists() else []
            with pytest.raises(SystemExit):
                main(["fit", *QUICK, "--data.batch_size", str(size), *more])
    assert state()["Digits"].items() >= {"epoch": 0, "images_done": 5 * 64 + 5 * 100}.items()


FIXTURE = Path(__file__).parents[1] / "fixtures" / "run_0_1"


@pytest.fixture
def old_run() -> Path:
    """A run folder that version 0.1 has written: three epochs of six steps, stopped by SIGINT after step 9."""
    run = Path("runs/old/version_0")
    shutil.copytree(FIXTURE, run)
    return run


def assert_kept(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Checks that all values of a config are the same; later versions have more options."""
    for name, value in before.items():
        if isinstance(value, dict):
            assert_kept(value, after[name])
        else:
            assert after[name] == value, name


@pytest.mark.parametrize("config", [[], ["--config=runs/old/version_0/config.yaml"]], ids=["checkpoint", "config"])
def test_a_run_of_version_0_1_continues(config: list[str], old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = old_run / "checkpoints" / "last.ckpt"
    before = checkpoint_io.read(last)
    main(["fit", *config, f"--ckpt_path={last}", "--threads=1"])
    assert "callbacks used to create the checkpoint" not in capsys.readouterr().err

    with (old_run / "metrics_uninterrupted.csv").open(newline="") as file:
        expected = [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
    rows = rows_of(old_run)
    assert [row["step"] for row in rows] == [6, 12, 18]
    # Later versions log more metrics.
    assert all(row.keys() >= earlier.keys() for row, earlier in zip(rows, expected, strict=True))
    for row, reference in zip(rows, expected, strict=True):
        exact = row["epoch"] == 0
        for name in reference.keys() - {"seconds"}:
            # Another machine may round differently.
            assert row[name] == (reference[name] if exact else pytest.approx(reference[name], rel=1e-4)), name

    after = state(last)
    assert after["callbacks"].keys() == before["callbacks"].keys()
    assert_kept(before["config"]["model"], after["config"]["model"])
    assert "regularization.networks" not in (old_run / "config.yaml").read_text()


@pytest.mark.parametrize(("command", "score"), [("validate", "val_accuracy"), ("test", "test_accuracy")])
def test_a_checkpoint_of_version_0_1_is_evaluated(
    command: str, score: str, old_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, f"--ckpt_path={old_run / 'checkpoints' / 'last.ckpt'}"])
    assert f"  {score} 1" in capsys.readouterr().out


def test_a_checkpoint_of_version_0_1_is_loaded(old_run: Path) -> None:
    model = regularization.load(old_run)
    assert model.classes == tuple("0123456789")
    probabilities = model(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))


def test_the_best_score_of_version_0_1_is_kept(old_run: Path) -> None:
    """``BestCheckpoint`` was called ``Best``: a state under the old name would be lost."""
    last = old_run / "checkpoints" / "last.ckpt"
    content = state(last)
    (key,) = (name for name in content["callbacks"] if name.startswith("Best{"))
    content["callbacks"][key]["best_model_score"] = torch.tensor(2.0)  # better than anything that follows
    torch.save(content, last)
    best = old_run / "checkpoints" / "best.ckpt"
    shutil.copy(last, best)
    main(["fit", f"--ckpt_path={last}", "--threads=1"])
    assert best.read_bytes() != last.read_bytes()
    assert state(best)["global_step"] == 9
