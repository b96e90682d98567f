"""Training, scoring and studies on an NVIDIA GPU: ``pytest -m gpu -n 0`` on a machine that has one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.cli.main import main
from regularization.data.augmentation.augment import Augment
from regularization.data.preprocess import Preprocess
from regularization.models.networks import SmallResNet, WhitenedNet
from regularization.training.command import run_fit
from tests.conftest import BASE, CONFIGS, rows_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(autouse=True)
def _own_settings() -> Iterator[None]:
    """Resets what ``--trainer.deterministic`` sets for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


SHORT = ("--config", str(BASE), "--trainer.max_epochs", "2")
GPU = ("--config", str(CONFIGS / "with" / "gpu.yaml"))


def fitted(name: str, *more: str) -> Path:
    """The run folder of two epochs of the digits."""
    run = Path(name)
    run_fit([*SHORT, *more], run)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The state of the network after the last epoch."""
    checkpoint: Any = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu")
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return state


def test_fp32_on_the_gpu_agrees_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # TF32 rounds the inputs of a convolution to 10 bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cpu, gpu = (fitted(name, "--trainer.accelerator", name, "--trainer.max_epochs", "1") for name in ("cpu", "gpu"))
    for one, two in zip(rows_of(cpu), rows_of(gpu), strict=True):
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=5e-3)
        norms = [name for name in one if name.startswith("norm/")]
        assert norms
        assert [two[name] for name in norms] == pytest.approx([one[name] for name in norms], rel=5e-3)


def test_bfloat16_compiled_and_on_the_device_trains_as_well() -> None:
    plain = rows_of(fitted("plain", "--trainer.accelerator", "gpu"))[-1]
    fast = rows_of(fitted("fast", *GPU))[-1]
    assert fast["train_loss"] == pytest.approx(plain["train_loss"], rel=0.1)
    assert fast["val_accuracy"] == pytest.approx(plain["val_accuracy"], abs=0.1)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true"])
def test_precision(precision: str) -> None:
    row = rows_of(fitted("run", "--trainer.accelerator", "gpu", "--trainer.precision", precision))[-1]
    assert row["val_accuracy"] > 0.5
    assert all(torch.isfinite(w).all() for w in weights(Path("run")).values())


def test_where_the_images_lie_changes_no_bit() -> None:
    options = ("--trainer.accelerator", "gpu", "--trainer.deterministic", "true", "--data.flip", "true")
    host, device = fitted("host", *options), fitted("device", *options, "--data.on_device", "true")
    one, two = weights(host), weights(device)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_augmentation_draws_the_same_on_the_gpu() -> None:
    pixels = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index = torch.arange(64)
    augment = Augment("alternating", crop_padding=4, cutout=8, seed=3, padding_mode="reflect")
    expected = augment(pixels, index, 5)
    assert torch.equal(augment(pixels.cuda(), index.cuda(), 5).cpu(), expected)
    mean, std = (0.49, 0.48, 0.44), (0.25, 0.24, 0.26)
    on_cpu, on_gpu = (Preprocess(96, mean, std).to(device)(expected.to(device)).cpu() for device in ("cpu", "cuda"))
    # Resizing rounds to integer pixel values: if sums differ in the last bit, the results differ by one of 255 levels.
    difference = (on_gpu - on_cpu).abs()
    assert difference.max() < 1.1 / 255 / min(std)
    assert (difference > 1e-4).float().mean() < 0.01


def test_channels_last_is_what_the_gpu_gets() -> None:
    class Formats(Callback):
        def __init__(self) -> None:
            self.seen: set[bool] = set()

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            w: torch.Tensor = pl_module.network.stem.weight  # type: ignore[union-attr, assignment]
            assert w.is_cuda
            self.seen.add(w.grad is not None and w.grad.is_contiguous(memory_format=torch.channels_last))

    formats = Formats()
    run_fit([*SHORT, "--trainer.accelerator", "gpu", "--trainer.max_epochs", "1"], Path("run"), callbacks=[formats])
    assert formats.seen == {True}


class NoWaiting(Callback):
    """Makes PyTorch raise if a training step waits for the GPU, from the second step on."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if trainer.global_step else "default")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.steps = trainer.global_step


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--config", str(CONFIGS / "with" / "l1.yaml")],
        pytest.param(
            ["--config", str(CONFIGS / "with" / "ema.yaml")],
            marks=pytest.mark.xfail(reason="torch's AveragedModel reads its number of averages from the GPU"),
        ),
        ["--config", str(CONFIGS / "with" / "mixup.yaml")],
        ["--config", str(CONFIGS / "with" / "sgdw.yaml")],
        ["--data.flip", "true", "--data.crop_padding", "1", "--data.cutout", "2"],
    ],
    ids=["plain", "l1", "ema", "mixup", "sgdw", "augmented"],
)
def test_no_step_waits_for_the_gpu(more: list[str]) -> None:
    callback = NoWaiting()
    options = ("--trainer.accelerator", "gpu", "--data.on_device", "true", "--trainer.log_every_n_steps", "1000")
    try:
        run_fit([*SHORT, *options, *more, "--trainer.max_epochs", "1"], Path("run"), callbacks=[callback])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert callback.steps == 18


class StopAt(Callback):
    """Ends the training as a signal would, in mid-epoch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 25:
            raise KeyboardInterrupt


def test_a_run_that_was_stopped_goes_on_with_the_same_bits() -> None:
    options = (
        "--trainer.accelerator",
        "gpu",
        "--trainer.deterministic",
        "true",
        "--config",
        str(CONFIGS / "with" / "dropout.yaml"),
    )
    expected = weights(fitted("whole", *options))
    with pytest.raises(SystemExit):
        run_fit([*SHORT, *options], Path("stopped"), callbacks=[StopAt()])
    resumed = weights(fitted("stopped", *options, "--ckpt_path", "last"))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_a_checkpoint_of_the_gpu_is_scored_alike_on_the_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted("run", "--trainer.accelerator", "gpu")
    accuracies = []
    for accelerator in ("gpu", "cpu"):
        capsys.readouterr()
        main(["test", "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--trainer.accelerator", accelerator])
        accuracies.append(float(re.findall(r"accuracy\s+([\d.]+)", capsys.readouterr().out)[0]))
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.006)


@pytest.mark.parametrize("network", [SmallResNet(width=16), WhitenedNet(width=16)], ids=["small", "whitened"])
def test_invariance_is_measured_on_the_gpu_as_on_the_cpu(network: torch.nn.Module) -> None:
    from regularization.optim.invariance import scale_invariant

    images = torch.randn(64, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    expected = scale_invariant(network, images)
    found = scale_invariant(network.cuda(), images.cuda())
    assert {name: it.filters.cpu().tolist() for name, it in found.items()} == {
        name: it.filters.tolist() for name, it in expected.items()
    }


def test_a_study_shares_one_gpu_among_its_workers() -> None:
    study = Path("study.yaml")
    study.write_text(
        f"base: {BASE}\noptions: {{trainer.max_epochs: 1, trainer.accelerator: gpu, data.on_device: true}}\n"
        "vary: {model.optimizer.weight_decay: [0, 0.01]}\nseeds: 2\n"
    )
    main(["sweep", "--config", str(study), "--workers", "3", "--threads", "1"])
    results = list(Path("runs/study/version_0").rglob("result.json"))
    assert len([json.loads(path.read_text()) for path in results]) == 4
    assert (Path("runs/study/version_0") / "report.html").is_file()
