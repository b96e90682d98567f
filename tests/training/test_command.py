"""The commands as a user types them, on the digits."""

import json
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from regularization import load
from regularization.cli.main import main
from regularization.models.classifier import ImageClassifier
from regularization.runs import checkpoint_io
from tests.conftest import BASE, CONFIGS, rows_of

QUICK = ("--config", str(BASE), "--model.network.width", "4", "--trainer.accelerator", "cpu")
L1 = (*QUICK, "--config", str(CONFIGS / "with" / "l1.yaml"))
RUN = Path("runs/quickstart/version_0")

Refused = Callable[..., str]


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates Ctrl-C in the given optimizer step, counted from 0."""
    train = ImageClassifier.training_step

    def interrupted(self: ImageClassifier, *args: Any) -> Any:
        if self.trainer.global_step == step:
            signal.raise_signal(signal.SIGINT)
        return train(self, *args)

    monkeypatch.setattr(ImageClassifier, "training_step", interrupted)


def test_scoring_nothing_is_refused(refused: Refused) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "1"])
    for command, limit in (("validate", "val"), ("test", "test")):
        args = [command, *QUICK, "--ckpt_path", "best", f"--trainer.limit_{limit}_batches", "0"]
        assert "nothing was scored" in refused(*args)


def test_a_run_folder_has_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "2"])
    out = capsys.readouterr().out.splitlines()
    assert {path.name for path in RUN.iterdir() if "tfevents" not in path.name} == {
        ".lock",
        "config.yaml",
        "metrics.csv",
        "curves.png",
        "result.json",
        "val_logits.npz",
        "checkpoints",
    }
    assert any("tfevents" in path.name for path in RUN.iterdir())
    assert sorted(path.name for path in (RUN / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    rows = rows_of(RUN)
    assert [row["epoch"] for row in rows] == [0, 1]
    assert [row["step"] for row in rows] == [18, 36]
    assert set(rows[0]) >= {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"}
    assert out[0].startswith("SmallResNet with ")
    assert out[1] == "Digits: 1,149 training images, 288 validation images"
    assert out[3].startswith("what acts on the parameters")
    assert [line[:11] for line in out if line.startswith("epoch ")] == ["epoch 1/2  ", "epoch 2/2  "]
    acted = out.index("regularization: weight decay 0.0005")
    assert out[acted + 1].startswith("accuracy on unaugmented training images ")
    assert out[-5] == "one run does not show whether regularization helps: use sweep to compare runs"
    best = max(rows, key=lambda row: row["val_accuracy"])
    assert (
        out[-4].partition(",")[0]
        == f"best validation accuracy {best['val_accuracy']:.2%} in epoch {best['epoch'] + 1:.0f}"
    )
    assert out[-3] == str(RUN)
    assert out[-2] == "in TensorBoard: tensorboard --logdir runs/quickstart/version_0"
    assert out[-1] == "compare runs: python -m regularization report runs/quickstart"
    assert max(map(len, out)) <= 80
    assert json.loads((RUN / "result.json").read_text())["best"]["val_accuracy"] == best["val_accuracy"]


def test_a_second_run_gets_a_folder_of_its_own() -> None:
    for _ in range(2):
        main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    assert sorted(path.name for path in Path("runs/quickstart").iterdir()) == ["version_0", "version_1"]


def test_same_seed_same_numbers_other_seed_others(two_threads: None) -> None:
    for seed in ("1", "1", "2"):
        main(["fit", *QUICK, "--trainer.max_epochs", "1", "--seed_everything", seed])
    first, second, third = (rows_of(Path(f"runs/quickstart/version_{version}"))[0] for version in range(3))
    assert first | {"seconds": 0} == second | {"seconds": 0}
    assert first["val_loss"] != third["val_loss"]


def test_test_and_validate_need_only_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "2", "--data.split_seed", "5"])
    row = rows_of(RUN)[-1]
    capsys.readouterr()
    checkpoint = str(RUN / "checkpoints" / "last.ckpt")
    main(["validate", "--ckpt_path", checkpoint])
    shown = capsys.readouterr().out
    assert f"val_accuracy {row['val_accuracy']:.2%}" in shown
    assert f"val_loss {row['val_loss']:.4f}" in shown
    main(["test", "--ckpt_path", checkpoint])
    said = capsys.readouterr()
    assert "test_accuracy" in said.out
    assert said.err == ""
    result = json.loads((RUN / "result.json").read_text())
    assert result["test"]["checkpoint"] == "last.ckpt"
    assert result["last"]["epoch"] == 1
    for which in (["--ckpt_path", str(RUN)], [*QUICK, "--ckpt_path", "best"]):
        main(["test", *which])
        assert json.loads((RUN / "result.json").read_text())["test"]["checkpoint"] == "best.ckpt"
    last, _ = checkpoint_io.find(str(RUN), lambda file: Path("absent"))
    assert last == RUN / "checkpoints" / "last.ckpt"
    assert [path.name for path in Path("runs").iterdir()] == ["quickstart"]
    assert len(list(Path("runs/quickstart").iterdir())) == 1


def test_ctrl_c_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    interrupt_at(18 + 7, monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *QUICK])
    assert exit_.value.code == 130
    assert "stopped by SIGINT in epoch 2, step 26; best validation accuracy" in capsys.readouterr().out
    assert (RUN / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(rows_of(RUN)) == 1
    assert (RUN / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("torchvision.models.resnet18", []),
        (
            "torchvision.models.ResNet",
            ["--model.network.block", "torchvision.models.resnet.BasicBlock", "--model.network.layers", "[1,1,1,1]"],
        ),
        ("timm.create_model", ["--model.network.model_name", "resnet10t"]),
        ("regularization.ResNet", ["--data.image_size", "32"]),
    ],
)
def test_any_network_by_its_class_path(network: str, options: list[str]) -> None:
    if network.startswith("timm"):
        pytest.importorskip("timm")
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    data = ["--data", "Digits", "--data.batch_size", "4", "--data.eval_batch_size", "4", "--data.image_size", "32"]
    main(["fit", "--model.network", network, *options, *data, *limits, "--trainer.accelerator", "cpu"])
    checkpoint = torch.load("runs/default/version_0/checkpoints/last.ckpt", weights_only=True)
    heads = [tensor for name, tensor in checkpoint["state_dict"].items() if tensor.ndim == 2]
    assert [len(head) for head in heads] == [10]
    main(
        ["validate", "--ckpt_path", "runs/default/version_0/checkpoints/last.ckpt", "--trainer.limit_val_batches", "1"]
    )


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_help_and_print_config(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert "--data.help" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_:
        main([command, *QUICK, "--print_config"])
    assert exit_.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["network"]["init_args"]["width"] == 4


def test_later_configs_and_the_command_line_win(capsys: pytest.CaptureFixture[str]) -> None:
    Path("strong.yaml").write_text("model: {optimizer: {init_args: {weight_decay: 1e-2, lr: 0.3}}}\n")
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, "--config", "strong.yaml", "--model.optimizer.lr", "0.5", "--print_config"])
    sgd = yaml.safe_load(capsys.readouterr().out)["model"]["optimizer"]["init_args"]
    assert (sgd["weight_decay"], sgd["lr"], sgd["momentum"]) == (0.01, 0.5, 0.9)


def test_overrides_without_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.optimizer.weight_decay", "1e-3", "--data.root", "DIR", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert (
        config["model"]["optimizer"]["init_args"] | {"lr": 0.01, "weight_decay": 0.001}
        == config["model"]["optimizer"]["init_args"]
    )
    assert config["data"]["class_path"].endswith("CIFAR10")
    assert config["data"]["init_args"]["root"] == "DIR"


def test_a_data_set_by_its_name_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--data", "ImageFolder", "--data.root", "x", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["class_path"] == "regularization.ImageFolder"


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_opens_with_the_command_that_runs_it(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = config.read_text().splitlines()[0]
    assert command.split(" --data.root")[0] == f"# python -m regularization fit --config configs/{config.name}"
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", str(config), "--print_config"])
    assert exit_.value.code == 0


def test_the_module_and_the_console_script_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["regularization", "fit", "--help"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("regularization", run_name="__main__")
    assert exit_.value.code == 0
    script = Path(sys.executable).with_name("regularization")
    if script.exists():
        subprocess.run([script, "--help"], check=True, capture_output=True)


def test_bad_configs(refused: Refused) -> None:
    assert "can't read the config absent.yaml: No such file" in refused("fit", "--config", "absent.yaml")
    mistakes = {
        "model: [1\n  x: {\n": "broken.yaml is not YAML",
        "just words\n": "broken.yaml has no options in it",
        "": "broken.yaml has no options in it",
        "modle: {x: 1}\n": "unknown option modle.x (did you mean model",
        "model: {optimiser: 1}\n": "unknown option model.optimiser (did you mean model.optimizer",
        "model: {optimizer: {init_args: {weight_decya: 1}}}\n": "did you mean weight_decay",
        "model: {optimizer: {class_path: torch.optim.SDG}}\n": "torch.optim has no SDG (did you mean SGD",
        "model: {network: {class_path: nowhere.Net}}\n": "there is no module nowhere",
        "data: {class_path: CIFAR11}\n": "there is no class CIFAR11 (did you mean CIFAR10",
        "data: {class_path: Digits, init_args: {batch_sise: 4}}\n": "batch_sise (did you mean batch_size",
        "data: {class_path: Digits, init_args: {batch_size: four}}\n": "batch_size: must be int, not four",
        "model: {network: {init_args: {norm_init: unifrom}}}\n": "must be one of 'ones', 'uniform', not unifrom",
        "model: resnet\n": "model: must hold options such as network and optimizer, not 'resnet'",
        "callbacks: [EMA]\n": "callbacks: must be a dict by names that you choose, not ['EMA']",
        "model: {penalties: [L1]}\n": "model.penalties: must be a dict by names",
        "trainer: {max_epochs: two}\n": "trainer.max_epochs: must be int, not two",
    }
    for text, message in mistakes.items():
        Path("broken.yaml").write_text(text)
        assert message in refused("fit", "--config", "broken.yaml"), text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["fti"], "there is no command fti (did you mean fit?)"),
        (["fit", "--modle.x", "1"], "unknown argument modle.x"),
        (["fit", *QUICK, "--trainer.limit_train_batches", "0"], "there is nothing to train on"),
        (["fit", "--data.roott", "x"], "unknown option roott (did you mean root"),
        (["fit", "--trainer.max_epohcs", "1"], "unknown argument trainer.max_epohcs (did you mean trainer.max_epochs"),
        (["fit", "--lr", "1"], "unknown argument lr (did you mean model.optimizer.lr or"),
        (["fit", "--seed", "1"], "unknown argument seed (did you mean data.seed or seed_everything?)"),
        (["fit", "--conf", "quickstart"], "unknown argument conf (did you mean config?)"),
        (["sweep", "--sedes", "1"], "unknown argument sedes (did you mean seeds?)"),
        (["sweep", "--dryrun"], "unknown argument dryrun (did you mean dry_run?)"),
        (["report", ".", "--outptu", "x"], "unknown argument outptu (did you mean output?)"),
        (["report", ".", "--lr", "1"], "unknown argument lr\n"),
        (["fit", "--model.optimizer", "SDG"], "there is no class SDG (did you mean SGD"),
        (["fit", "--model.optimizer.lr", "fast"], "lr: must be float, not fast"),
        (["fit", *QUICK, "--model.optimizer.lr", "-1"], "Invalid learning rate: -1.0"),
        (["fit", *QUICK, "--model.optimizer.weight_decay", "-1e-4"], "Invalid weight_decay value: -0.0001"),
        (["fit", *QUICK, "--model.network", "torch.nn.Flatten"], "torch.nn.Flatten has no argument num_classes"),
        (["fit", *QUICK, "--data.val_size", "5000"], "cannot hold out 5000 of 1437 images"),
        (
            ["fit", *QUICK, "--test", "best", "--data.val_size", "null"],
            "without validation there is no best checkpoint",
        ),
        (
            ["fit", *QUICK, "--test", "best", "--trainer.limit_val_batches", "0"],
            "there is no best checkpoint: --test last",
        ),
        (["fit", *QUICK, "--data.val_size", "-1"], "--data.val_size must be at least 0, not -1"),
        (["fit", *QUICK, "--data.batch_size", "0"], "--data.batch_size must be at least 1"),
        (["fit", *QUICK, "--data.mean", "[0,0,0]", "--data.std", "[1,0,1]"], "--data.std must be positive"),
        (["fit", *QUICK, "--trainer.default_root_dir", "/proc/nowhere"], "cannot create a run folder in /proc/nowhere"),
        (["test", *QUICK], "test needs a trained network: --ckpt_path best, last, a file or a run folder"),
        (["test", *QUICK, "--hours", "1"], "test does not use --hours: remove this option"),
        (["validate", *QUICK, "--test=last"], "validate does not use --test: remove this option"),
        (["validate", *QUICK, "--callbacks.ema", "EMA"], "validate does not use --callbacks: remove this option"),
        (["fit", *QUICK, "--preprocess", "config"], "fit does not use --preprocess: remove this option"),
        (["test", *QUICK, "--ckpt_path", "best"], "no run in runs/quickstart has a checkpoint"),
        (["fit", *QUICK, "--ckpt_path", "last"], "no run in runs/quickstart has a checkpoint to continue from"),
        (["fit", *QUICK, "--ckpt_path", "gone.ckpt"], "there is no file gone.ckpt"),
        (
            ["fit", *L1, "--model.penalties.l1.strength", "-1e-4"],
            "L1: strength must be a number of at least 0, not -0.0001",
        ),
        (["fit", *L1, "--model.penalties.l1.strength=.nan"], "L1: strength must be a number of at least 0, not nan"),
        (["fit", *L1, "--model.penalties.l1.parameters=[heat.*]"], "'heat.*' matches none of the 25 parameters"),
        (["fit", *L1, "--model.penalties.l1.strenght", "1"], "unknown option strenght (did you mean strength"),
        (["fit", *L1, "--model.penalties.l2.strength", "1"], "each penalty needs a class_path"),
        (
            ["fit", *QUICK, "--model.penalties", '{"a.b": {"class_path": "L1", "init_args": {"strength": 1}}}'],
            "'a.b' must",
        ),
        (
            ["fit", *QUICK, "--model.penalties.m", "MaxNorm", "--model.penalties.m.limit", "0"],
            "limit must be above 0, not 0",
        ),
        (["fit", *QUICK, "--model.decay_schedule", "Linear", "--model.decay_schedule.end", "-1"], "at least 0, not -1"),
        (["fit", *QUICK, "--model.timescale_epochs", "0"], "timescale_epochs must be above 0"),
        (["fit", *QUICK, "--model.network.dropout", "2"], "dropout probability has to be between 0 and 1"),
        (["fit", *QUICK, "--trainer.devices", "3"], "64 cannot be split evenly across 3 processes: 63 or 66 can"),
        (["fit", *QUICK, "--trainer.devices", "2", "--trainer.strategy", "fsdp"], "--trainer"),
        (["fit", *QUICK, "--trainer.devices", "-7"], "should be an int > 0"),
    ],
)
def test_bad_arguments(args: list[str], message: str, refused: Refused) -> None:
    assert message in refused(*args)


def test_an_output_folder_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    message = refused("fit", *QUICK, "--trainer.default_root_dir", "file")
    assert "cannot create a run folder in file/quickstart: Not a directory" in message
    assert "--trainer.default_root_dir" in message


def test_cifar_absent_without_network(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    from regularization.data import readers

    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(readers, "download_and_extract_archive", unreachable)
    message = refused("fit", "--data.root", "empty")
    assert "CIFAR10 is not in empty/cifar-10-batches-py" in message
    assert "configs/quickstart.yaml" in message


def test_warns_that_the_test_set_is_no_test(capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", *QUICK, "--data.val_size", "0", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"])
    warning = "warning: val_size is 0: validating on the test set, which is then no longer independent"
    assert warning in capsys.readouterr().err
    main(["test", "--ckpt_path", str(RUN / "checkpoints" / "last.ckpt")])
    scored = json.loads((RUN / "result.json").read_text())
    assert scored["test"]["test_accuracy"] == pytest.approx(scored["last"]["val_accuracy"])


def test_fit_ends_with_the_test_where_asked(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--data.val_size", "null"]
    main(["fit", *QUICK, *short, "--test", "last"])
    said = capsys.readouterr()
    assert "of 1,437 training images, 0 validation images" in said.out.replace("Digits:", "of")
    assert "trained without validation" in said.out
    assert "over 360 test images" in said.out
    assert "could not find the monitored key" not in said.err
    assert not (RUN / "checkpoints" / "best.ckpt").exists()
    kept = json.loads((RUN / "result.json").read_text())["test"]
    main(["test", "--ckpt_path", str(RUN / "checkpoints" / "last.ckpt")])
    assert json.loads((RUN / "result.json").read_text())["test"] == kept
    assert "test" not in (RUN / "config.yaml").read_text().split("data:")[0]
    assert load(RUN).classes == tuple("0123456789")
    assert "nothing is held out" in refused("validate", "--ckpt_path", str(RUN / "checkpoints" / "last.ckpt"))
    plateau = [
        "--model.lr_scheduler",
        "lightning.pytorch.cli.ReduceLROnPlateau",
        "--model.lr_scheduler.monitor",
        "val_loss",
    ]
    assert "the scheduler monitors val_loss" in refused("fit", *QUICK, *short, *plateau)
    assert "--test last" in refused("fit", *QUICK, *short, "--test", "best")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles with g++")
def test_compiled_is_the_same_training_and_the_same_checkpoint() -> None:
    short = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "5", "--model.mixing", "null"]
    losses: list[list[float]] = []
    names: list[list[str]] = []
    for compiled in ("false", "true"):
        main(["fit", *QUICK, *short, "--model.compile", compiled])
        run = Path("runs/quickstart") / f"version_{len(losses)}"
        losses.append([row["train_loss"] for row in rows_of(run)])
        names.append(list(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert names[1] == names[0]


@pytest.mark.parametrize(("size", "better"), [("28", "29"), ("1", "3")])
def test_a_batch_of_one_image_is_said(size: str, better: str, capsys: pytest.CaptureFixture[str]) -> None:
    # 1,149 images; at 16×16 the last stage has one pixel, for which batch norm cannot compute a variance.
    args = ["--model.network", "WhitenedNet", "--data.image_size", "16", "--data.batch_size", size]
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", str(BASE), "--trainer.accelerator", "cpu", *args])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert f"error: the last batch has only one image, too few for batch norm; use --data.batch_size {better}\n" in said
    assert 1149 % int(better) > 1 or 1149 % int(better) == 0


def test_compiling_without_a_compiler_is_said(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    message = refused("fit", *QUICK, "--model.compile", "true", "--trainer.accelerator", "cpu")
    assert "--model.compile needs a C++ compiler on the CPU, and there is no no-such-compiler" in message


def test_threads_are_what_was_asked_for(two_threads: None) -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--threads", "1"])
    assert torch.get_num_threads() == 1


def test_fits_real_cifar(cifar_root: str) -> None:
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "20", "--trainer.limit_val_batches", "2"]
    main(["fit", "--config", str(CONFIGS / "cifar10.yaml"), "--data.root", cifar_root, *limits])
    run = Path("runs/cifar10/version_0")
    assert rows_of(run)[0]["train_loss"] < 2.4
    main(["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--trainer.limit_test_batches", "2"])


def test_short_forms_and_odd_optimizers() -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"]
    Path("adam.yaml").write_text("model: {optimizer: torch.optim.AdamW}")
    main(["fit", *QUICK, "--config", "adam.yaml", *short])
    main(["fit", *QUICK, "--model.optimizer", "torch.optim.Rprop", *short])
    main(["fit", *QUICK, "--model.optimizer.lr", "0", *short])
    main(["fit", *QUICK, "--data.batch_size", "10", *short])
    assert len(list(Path("runs").rglob("best.ckpt"))) == 4


def test_a_start_that_is_refused_late_leaves_nothing(refused: Refused) -> None:
    endless = [*QUICK, "--trainer.max_epochs", "-1"]
    assert "the schedule needs a fixed training length" in refused("fit", *endless)


def test_validation_that_was_not_run_is_not_repeated() -> None:
    main(["fit", *QUICK, "--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2"])
    assert ["val_loss" in row and row["val_loss"] == row["val_loss"] for row in rows_of(RUN)] == [False, True, False]
