"""The fault table: each fault really happens to a run.

| fault | what the user sees | what remains |
| --- | --- | --- |
| disk full or read-only | cannot write FILE: reason (exit 2) | last.ckpt and all rows; the run can be continued |
| run folder removed | cannot write FILE: there is no folder (exit 2) | nothing; the folder is not created again |
| SIGINT, SIGTERM | stopped by SIGINT in epoch E, step S (130, 143) | that step: continued with the same bits |
| a second signal | nothing: the run ends at once | the last checkpoint |
| SIGKILL (test_soak.py) | nothing | the last checkpoint: continued with the same bits |
| last.ckpt cut short, or a bit flipped | warning: damaged; continuing from best.ckpt, epoch E | an earlier epoch |
| every checkpoint damaged | not a complete checkpoint, or the checksum of its part P is wrong (exit 2) | – |
| NaN in loss, gradient, weights, validation | training diverged: what, step, lr, λ, advice (exit 2) | last finite one |
| killed after the last epoch | nothing left to train | result.json and curves, written on continuing |
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from regularization.callbacks.non_finite_guard import NonFiniteGuard
from regularization.callbacks.parameter_report import ParameterReport
from regularization.cli.main import main
from regularization.errors import UserError
from regularization.models.classifier import ImageClassifier
from regularization.runs import checkpoint_io, run_lock
from tests.conftest import rows_of
from tests.runs.test_soak import differences, plain
from tests.training.test_command import QUICK, RUN, interrupt_at

SHORT = (*QUICK, "--trainer.limit_train_batches", "4", "--trainer.max_epochs", "4")
LAST = RUN / "checkpoints" / "last.ckpt"
BEST = RUN / "checkpoints" / "best.ckpt"


def do_at(step: int, fault: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Makes ``fault`` happen once, in this optimizer step."""
    train = ImageClassifier.training_step
    pending = [fault]

    def disturbed(self: ImageClassifier, *args: Any) -> Any:
        if self.trainer.global_step == step and pending:
            pending.pop()()
        return train(self, *args)

    patch.setattr(ImageClassifier, "training_step", disturbed)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 600 kB, which is the current folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    os.chdir(folder)
    yield folder
    os.chdir(tmp_path)
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    subprocess.run(["umount", "--lazy", folder], check=True)


def stopped(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The text on stderr of a run that ends with exit code 2, without the warnings before it."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *SHORT, *args])
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert exit_.value.code == 2
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    return " ".join(lines)


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=True)


@pytest.mark.parametrize("fault", ["full disk", "read-only"])
def test_a_disk_that_is_full_or_read_only(fault: str, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filler = disk / "filler"

    def fail() -> None:
        before.append(LAST.read_bytes())
        if fault == "read-only":
            return remount(disk, "ro")
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    before: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        # A file system with an open file cannot be remounted manually, although the system does so after an error.
        patch.setattr(run_lock, "exclusive_run", lambda *_: nullcontext())
        do_at(9, fail, patch)
        message = stopped(capsys)
    assert f"cannot write {RUN}/" in message
    assert ("No space left on device" if fault == "full disk" else "Read-only file system") in message
    assert LAST.read_bytes() == before[0]
    assert len(rows_of(RUN)) == 2
    assert not list(disk.rglob(".*.new*"))

    remount(disk, "rw")
    filler.unlink(missing_ok=True)
    main(["fit", *SHORT, "--ckpt_path", "last"])
    assert [row["epoch"] for row in rows_of(RUN)] == [0, 1, 2, 3]


def test_a_folder_without_write_permission(capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("permissions do not stop root; a read-only file system does, see above")
    with pytest.MonkeyPatch.context() as patch:
        do_at(9, lambda: (RUN / "checkpoints").chmod(0o500), patch)
        assert "Permission denied" in stopped(capsys)
    (RUN / "checkpoints").chmod(0o700)
    main(["fit", *SHORT, "--ckpt_path", "last"])


def test_a_run_folder_that_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        do_at(9, lambda: shutil.rmtree(RUN), patch)
        assert "there is no folder" in stopped(capsys)
    assert not [path for path in RUN.rglob("*") if path.is_file() and "tfevents" not in path.name]


def test_a_run_stopped_by_a_signal_continues_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    """The signal arrives within an epoch, in its last batch or in its validation, while averaged weights are in use."""
    noisy = (*SHORT, "--callbacks.ema", "EMA", "--callbacks.ema.decay", "0.5", "--model.network.dropout", "0.3")
    main(["fit", *noisy])
    expected = plain([checkpoint_io.read(LAST), checkpoint_io.read(BEST), rows_of(RUN)], RUN.parent)
    for number, code, steps in ((signal.SIGINT, 130, (9,)), (signal.SIGTERM, 143, (9, 11, "validation"))):
        for step in steps:
            shutil.rmtree(RUN)
            with pytest.MonkeyPatch.context() as patch:
                if isinstance(step, int):
                    do_at(step, lambda number=number: signal.raise_signal(number), patch)  # type: ignore[misc]
                else:
                    in_validation(number, patch)
                capsys.readouterr()
                with pytest.raises(SystemExit) as exit_:
                    main(["fit", *noisy])
            assert exit_.value.code == code
            out = capsys.readouterr().out
            assert f"stopped by {signal.Signals(number).name} in epoch 3, step {10 if step == 9 else 12}" in out
            assert (RUN / "curves.png").is_file()
            assert len(rows_of(RUN)) == 2, "there was an extra validation"
            main(["fit", *noisy, "--ckpt_path", "last"])
            result = plain([checkpoint_io.read(LAST), checkpoint_io.read(BEST), rows_of(RUN)], RUN.parent)
            assert differences(result, expected) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


PLATEAU = [
    "--model.lr_scheduler",
    "lightning.pytorch.cli.ReduceLROnPlateau",
    "--model.lr_scheduler.monitor",
    "val_loss",
]
FULL = ["--trainer.limit_train_batches", "1.0", "--trainer.max_epochs", "2"]


@pytest.mark.parametrize(
    ("where", "options"),
    [
        (17, []),  # the last batch of the first epoch
        (16, []),
        (20, ["--trainer.val_check_interval", "7"]),
        (25, ["--trainer.val_check_interval", "7"]),
        (34, ["--trainer.val_check_interval", "7"]),  # the latest validation was in the middle of this epoch
        (4, ["--trainer.accumulate_grad_batches", "4"]),
        (10, ["--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "3"]),
        ("validation", ["--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "3"]),
        (30, ["--trainer.max_steps", "31"]),
        (20, ["--trainer.max_steps", "25", "--trainer.max_epochs", "-1"]),
        (
            20,
            [
                "--model.lr_scheduler",
                "lightning.pytorch.cli.ReduceLROnPlateau",
                "--model.lr_scheduler.monitor",
                "val_loss",
            ],
        ),
        (40, ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "4"]),
        (20, ["--trainer.limit_val_batches", "0"]),
        # The weights are averaged, but the statistics of batch norm are not computed yet.
        (17, ["--callbacks.swa", "SWA", "--callbacks.swa.start", "0.1"]),
        (17, ["--callbacks.lawa", "LAWA", "--callbacks.lawa.epochs", "2"]),
    ],
)
def test_a_run_stopped_at_any_step_continues_exactly(where: int | str, options: list[str]) -> None:
    args = [*SHORT, *FULL, *options]
    main(["fit", *args])
    checkpoints = [path for path in (LAST, BEST) if path.exists()]
    expected = plain([*map(checkpoint_io.read, checkpoints), rows_of(RUN)], RUN.parent)
    shutil.rmtree(RUN)
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(where, int):
            do_at(where, lambda: signal.raise_signal(signal.SIGTERM), patch)
        else:
            in_validation(signal.SIGTERM, patch, step=1)
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *args])
    assert exit_.value.code == 143
    main(["fit", *args, "--ckpt_path", "last"])
    assert differences(plain([*map(checkpoint_io.read, checkpoints), rows_of(RUN)], RUN.parent), expected) == []


def test_a_signal_before_the_first_step_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    on_train_start = ParameterReport.on_train_start

    def disturbed(self: ParameterReport, *args: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        on_train_start(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ParameterReport, "on_train_start", disturbed)
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *SHORT])
    assert exit_.value.code == 143
    assert checkpoint_io.read(LAST)["global_step"] == 1


class Killed(BaseException):
    """Ends the run like SIGKILL: no handler writes anything."""


@pytest.mark.parametrize("limit", [["45", "--trainer.max_epochs", "-1"], ["99"]])
def test_a_run_with_max_steps_continues_after_a_kill(limit: list[str]) -> None:
    args = ["fit", *SHORT, *FULL, "--trainer.max_steps", *limit]
    main(args)
    expected = plain(rows_of(RUN), RUN)
    shutil.rmtree(RUN)

    def kill() -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        do_at(21, kill, patch)
        with pytest.raises(Killed):
            main(args)
    main([*args, "--ckpt_path", "last"])
    assert plain(rows_of(RUN), RUN) == expected


def test_a_run_that_early_stopping_ended_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    early = ["--callbacks.es", "lightning.pytorch.callbacks.EarlyStopping", "--callbacks.es.monitor", "val_loss"]
    early += ["--callbacks.es.patience", "1", "--callbacks.es.min_delta", "99"]
    main(["fit", *SHORT, *early])
    assert len(rows_of(RUN)) == 2
    main(["fit", *SHORT, *early, "--ckpt_path", "last"])
    assert len(rows_of(RUN)) == 2
    assert "nothing left to train" in capsys.readouterr().out
    main(["fit", *SHORT, *early, "--callbacks.es.patience", "2", "--ckpt_path", "last"])
    assert len(rows_of(RUN)) == 3
    early[3] = "val_los"
    assert "EarlyStopping monitors val_los, which is not a metric" in stopped(capsys, *early)


def test_a_config_with_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    Path("endless.yaml").write_text("trainer: {gradient_clip_val: .inf}")
    main(["fit", *SHORT, "--config", "endless.yaml"])
    (last,) = Path("runs").rglob("last.ckpt")
    main(["validate", "--ckpt_path", str(last)])


def in_validation(number: int, patch: pytest.MonkeyPatch, step: int = 12) -> None:
    validate = ImageClassifier.validation_step

    def disturbed(self: ImageClassifier, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == step and batch_idx == 1:
            signal.raise_signal(number)
        return validate(self, batch, batch_idx)

    patch.setattr(ImageClassifier, "validation_step", disturbed)


@pytest.mark.slow
def test_a_second_signal_ends_at_once() -> None:
    hang = "import time; from regularization.models.classifier import ImageClassifier as C"
    hang += "; C.training_step = lambda *_: print('hangs', flush=True) or time.sleep(60)"
    run = f"from regularization.cli.main import main; main({['fit', *SHORT]!r})"
    command = [sys.executable, "-c", f"{hang}; {run}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "hangs" not in process.stdout.readline():
        pass
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    while process.poll() is None:
        process.terminate()
        time.sleep(0.2)
    assert process.returncode == -signal.SIGTERM


def test_the_newest_complete_checkpoint_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(13, patch)
        with pytest.raises(SystemExit):
            main(["fit", *SHORT])
    best = int(checkpoint_io.read(BEST)["epoch"]) + 1
    LAST.write_bytes(LAST.read_bytes()[:-50])
    capsys.readouterr()
    main(["fit", *SHORT, "--ckpt_path", "last"])
    warnings = capsys.readouterr().err
    assert f"warning: {LAST} is not a complete checkpoint" in warnings
    assert f"continuing from {BEST}, written after epoch {best}" in warnings
    assert [row["epoch"] for row in rows_of(RUN)] == [0, 1, 2, 3]
    for path in (LAST, BEST):
        path.write_bytes(b"")
    assert f"{BEST} is not a complete checkpoint" in stopped(capsys, "--ckpt_path", "last")


def test_a_run_killed_after_its_last_epoch_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    main(["fit", *SHORT])
    for name in ("result.json", "curves.png"):
        (RUN / name).unlink()
    main(["fit", *SHORT, "--ckpt_path", "last"])
    assert (RUN / "result.json").is_file()
    assert (RUN / "curves.png").is_file()


@pytest.mark.parametrize("damage", ["cut short", "one bit flipped"])
def test_damaged_checkpoints_are_rejected_or_equal(damage: str, tmp_path: Path) -> None:
    main(["fit", *SHORT, "--trainer.max_epochs", "1"])
    whole = LAST.read_bytes()
    expected = plain(checkpoint_io.read(LAST), tmp_path)
    bad = tmp_path / "bad.ckpt"
    chance = random.Random(0)
    harmless = 0
    for _ in range(20 if damage == "cut short" else 200):
        content = bytearray(whole)
        position = chance.randrange(len(whole))
        if damage == "cut short":
            del content[position:]
        else:
            content[position] ^= 1 << chance.randrange(8)
        bad.write_bytes(content)
        try:
            result = plain(checkpoint_io.read(bad), tmp_path)
        except UserError:
            continue
        harmless += 1
        assert differences(result, expected) == []
    assert harmless < 60, "most bits matter; the others are padding and metadata of the archive"


@pytest.mark.parametrize("option", ["loss", "gradient", "weights", "validation"])
@pytest.mark.parametrize("every_step", [True, False])
def test_divergence(
    option: str, every_step: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ImageClassifier.training_step
    validate = ImageClassifier.validation_step

    def diverging(self: ImageClassifier, *args: Any) -> Any:
        loss = step(self, *args)
        if self.trainer.global_step == 6:
            first = next(self.network.parameters())
            if option == "loss":
                return loss * float("nan")
            if option == "gradient":
                first.register_hook(lambda gradient: gradient / 0)  # type: ignore[no-untyped-call]
            if option == "weights":
                first.data[0] = float("inf")
        return loss

    def diverging_validation(self: ImageClassifier, *args: Any) -> Any:
        if option == "validation" and self.trainer.global_step == 8:
            next(self.network.parameters()).data[0] = float("nan")
        return validate(self, *args)

    monkeypatch.setattr(ImageClassifier, "training_step", diverging)
    monkeypatch.setattr(ImageClassifier, "validation_step", diverging_validation)
    if not every_step:
        # As on a GPU, where the first non-finite step is recorded on the device and read later.
        monkeypatch.setattr(NonFiniteGuard, "checks_every_step", lambda *_: False)
    message = stopped(capsys, "--model.penalties.l2", "L2", "--model.penalties.l2.strength", "0.25")
    reason, at = {
        "loss": ("the loss is not finite", 6),
        "gradient": ("the gradient is not finite", 6),
        "weights": ("the loss is not finite", 7),
        "validation": ("the validation loss is nan", 8),
    }[option]
    assert f"training diverged: {reason} at step {at} (epoch 2), learning rate 0.0" in message
    assert "weight decay 0.0005, l2 0.25" in message
    last = checkpoint_io.read(LAST)
    assert last["global_step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in last["state_dict"].values())
    assert len(rows_of(RUN)) == 1


def test_infinite_weights_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    strong = ["--model.penalties.o", "Orthogonal", "--model.penalties.o.strength", "1e30", "--checkpoint.steps", "1"]
    assert "training diverged: some weights are not finite at step 1" in stopped(capsys, *strong)
    assert not LAST.exists()
