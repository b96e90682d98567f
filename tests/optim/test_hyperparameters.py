"""Hyperparameters of optimizers: those of the config win over those of a checkpoint, and the schedule is replayed."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from regularization import SGDW, WarmupDecay
from regularization.cli.main import main
from regularization.errors import UserError
from regularization.optim.hyperparameters import apply_overrides, check_continues, hyperparameters, replay_schedule
from tests.conftest import rows_of
from tests.runs.test_resume import LAST, SHORT, group, state, stop_after
from tests.training.test_command import QUICK, RUN, Refused, interrupt_at


def make(lr: float, steps: int = 10, **options: Any) -> tuple[SGDW, WarmupDecay]:
    optimizer = SGDW([torch.ones(3, requires_grad=True)], lr=lr, momentum=0.9, **options)
    return optimizer, WarmupDecay(optimizer, steps)


def step(optimizer: torch.optim.Optimizer, scheduler: Any, *metrics: float) -> None:
    for w in optimizer.param_groups[0]["params"]:
        w.grad = torch.ones_like(w)
    optimizer.step()
    scheduler.step(*metrics)


def test_hyperparameters_are_plain_values() -> None:
    saved = hyperparameters(*make(0.2, weight_decay=0.01))
    assert (saved["optimizer"], saved["scheduler"]) == ("SGDW", "WarmupDecay")
    assert saved["groups"][0].items() >= {"initial_lr": 0.2, "momentum": 0.9, "weight_decay": 0.01}.items()
    assert "params" not in saved["groups"][0]
    assert saved["schedule"].items() >= {"total_steps": 10, "warmup": 0.1, "decay": "cosine"}.items()
    torch.save(saved, "saved.pt")
    assert torch.load("saved.pt", weights_only=True) == saved == hyperparameters(*make(0.2, weight_decay=0.01))


def test_another_optimizer_or_other_groups_cannot_continue() -> None:
    w = [torch.ones(1), torch.ones(1)]
    saved = hyperparameters(torch.optim.SGD(w, lr=0.1), None)
    check_continues(saved, hyperparameters(torch.optim.SGD(w, lr=0.5), None))
    with pytest.raises(
        UserError, match="the checkpoint's optimizer is SGD, but the config asks for Adam, which cannot"
    ):
        check_continues(saved, hyperparameters(torch.optim.Adam(w), None))
    groups = [{"params": w[:1]}, {"params": w[1:]}]
    with pytest.raises(UserError, match="optimizer has 1 parameter groups, but the config makes 2"):
        check_continues(saved, hyperparameters(torch.optim.SGD(groups, lr=0.1), None))


def test_replayed_learning_rates_are_those_of_a_training() -> None:
    optimizer, scheduler = make(0.2)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(9):
        step(optimizer, scheduler)
        rates.append(optimizer.param_groups[0]["lr"])
    assert replay_schedule(make(0.2)[1], 9) == rates


def test_overrides_continue_the_new_schedule_and_keep_the_momentum() -> None:
    optimizer, scheduler = make(0.2)
    saved = hyperparameters(optimizer, scheduler)
    for _ in range(4):
        step(optimizer, scheduler)
    (momentum,) = (buffers["momentum_buffer"].clone() for buffers in optimizer.state.values())
    apply_overrides(optimizer, scheduler, saved, make(0.6, 20, weight_decay=0.3), 4)
    expected = replay_schedule(make(0.6, 20)[1], 19)
    assert optimizer.param_groups[0]["weight_decay"] == 0.3
    assert torch.equal(next(iter(optimizer.state.values()))["momentum_buffer"], momentum)
    for index in range(4, 19):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected[index], rel=1e-12)
        step(optimizer, scheduler)


def test_reductions_so_far_stay_and_those_to_come_follow_the_config() -> None:
    def plateau(lr: float, factor: float) -> tuple[torch.optim.Optimizer, ReduceLROnPlateau]:
        optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=lr)
        return optimizer, ReduceLROnPlateau(optimizer, patience=0, factor=factor)

    optimizer, scheduler = plateau(0.8, 0.5)
    saved = hyperparameters(optimizer, scheduler)
    for _ in range(3):
        step(optimizer, scheduler, 1.0)  # the first metric is the best one; the others reduce the learning rate
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    apply_overrides(optimizer, scheduler, saved, plateau(0.4, 0.1), 3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)
    step(optimizer, scheduler, 1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("source", ["command line", "config"])
def test_the_config_wins_over_the_checkpoint(source: str) -> None:
    stop_after(2)
    before = group()
    if source == "config":
        Path("other.yaml").write_text("model: {optimizer: {init_args: {lr: 0.2, weight_decay: 0.01, momentum: 0.5}}}\n")
        # Runs are named after their configs, but with --ckpt_path, a run continues in the folder of its checkpoint.
        main(["fit", "--config", "other.yaml", "--ckpt_path", str(LAST)])
    else:
        sgd = ("--model.optimizer.lr=0.2", "--model.optimizer.weight_decay=0.01", "--model.optimizer.momentum=0.5")
        main(["fit", *SHORT, *sgd, "--ckpt_path", "last"])
    assert (before["initial_lr"], before["weight_decay"], before["momentum"]) == (0.1, 5e-4, 0.9)
    after = group()
    assert (after["initial_lr"], after["weight_decay"], after["momentum"]) == (0.2, 0.01, 0.5)
    # The schedule is a function of the step, so that all further learning rates are twice the old ones.
    rows = rows_of(RUN)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    time = 13 / 17
    expected = 0.2 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (time - 0.2) / 0.8)).item())
    assert rows[3]["lr"] == pytest.approx(expected, rel=1e-6)
    assert state()["config"]["model"]["optimizer"]["init_args"]["lr"] == 0.2


def test_more_epochs_stretch_the_schedule() -> None:
    main(["fit", *SHORT, "--trainer.max_epochs", "2"])
    main(["fit", *SHORT, "--trainer.max_epochs", "6", "--ckpt_path", "last"])
    rows = rows_of(RUN)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5]
    time = 9 / 25
    expected = 0.1 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (time - 0.2) / 0.8)).item())
    assert rows[2]["lr"] == pytest.approx(expected, rel=1e-6)


def test_without_a_scheduler_the_new_learning_rate_is_used() -> None:
    constant = (*SHORT, "--model.lr_scheduler", "null")
    main(["fit", *constant, "--trainer.max_epochs", "1"])
    main(["fit", *constant, "--trainer.max_epochs", "2", "--model.optimizer.lr", "0.007", "--ckpt_path", "last"])
    assert [row["lr"] for row in rows_of(RUN)] == [0.1, 0.007]


def test_a_plateau_scheduler_keeps_its_reductions() -> None:
    plateau = [
        "--model.lr_scheduler",
        "lightning.pytorch.cli.ReduceLROnPlateau",
        "--model.lr_scheduler.monitor",
        "val_loss",
    ]
    # No loss can decrease by more than its value, so the learning rate is reduced to a tenth after every epoch.
    plateau += ["--model.lr_scheduler.patience", "0", "--model.lr_scheduler.threshold", "1.0"]
    main(["fit", *SHORT, *plateau, "--trainer.max_epochs", "3"])
    assert group()["lr"] == pytest.approx(0.1 * 1e-3)
    main(["fit", *SHORT, *plateau, "--model.optimizer.lr", "0.5", "--ckpt_path", "last"])
    assert rows_of(RUN)[3]["lr"] == pytest.approx(0.5 * 1e-3)


def test_lambda_is_that_of_the_config_after_its_schedule_is_removed() -> None:
    main(["fit", *SHORT, "--model.decay_schedule", "Linear", "--trainer.max_epochs", "2"])
    assert group()["weight_decay"] < 2e-4
    main(["fit", *SHORT, "--model.decay_schedule", "null", "--ckpt_path", "last"])
    assert group()["weight_decay"] == 5e-4


SEQUENCE = """model:
  lr_scheduler:
    class_path: regularization.SchedulerSequence
    init_args:
      schedulers:
        - class_path: LinearLR
          init_args: {start_factor: 0.1, total_iters: -1}
        - class_path: torch.optim.lr_scheduler.CosineAnnealingLR
          init_args: {T_max: -1}
      milestones: [0.25]
"""


def sequence_rates(lr: float, steps: int) -> list[float]:
    """The learning rates of SEQUENCE by the formulas of its schedulers."""
    end = round(steps / 4)
    warm = [lr * (0.1 + 0.9 * step / end) for step in range(end)]
    length = steps - end
    return [*warm, *(lr * 0.5 * (1 + math.cos(math.pi * step / length)) for step in range(length + 1))]


def test_a_sequence_continues_exactly_and_its_learning_rates_are_those_of_the_config() -> None:
    Path("sequence.yaml").write_text(SEQUENCE)
    short = ("--trainer.max_epochs=4", "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1")
    args = [*QUICK, "--config", "sequence.yaml", *short, "--model.decay_schedule=LikeLearningRate"]
    main(["fit", *args])
    run = Path("runs/quickstart+sequence/version_0")
    expected = sequence_rates(0.1, 16)
    # A row has the learning rate of the first step of its epoch.
    assert [row["lr"] for row in rows_of(run)] == pytest.approx(expected[:16:4], rel=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(7, patch)
        with pytest.raises(SystemExit):
            main(["fit", *args])
    other = run.with_name("version_1")
    shutil.copytree(other, "stopped")
    main(["fit", "--ckpt_path", str(other / "checkpoints" / "last.ckpt")])
    whole, continued = (state(folder / "checkpoints" / "last.ckpt") for folder in (run, other))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(continued[part], whole[part], rtol=0, atol=0)
    assert continued["lr_schedulers"] == whole["lr_schedulers"]
    (group,) = whole["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == pytest.approx(5e-4 * expected[15] / 0.1, rel=1e-6)  # as in the last step
    # With another learning rate, the schedule continues at the same position.
    main(["fit", "--ckpt_path", "stopped/checkpoints/last.ckpt", "--model.optimizer.lr=0.3"])
    rates = [row["lr"] for row in rows_of(Path("stopped"))]
    assert rates[-2:] == pytest.approx(sequence_rates(0.3, 16)[8:16:4], rel=1e-6)


WARMUP = "--model.lr_scheduler=WarmupDecay"
PLATEAU = "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["--model.lr_scheduler=CosineAnnealingLR", "--model.lr_scheduler.T_max=-1"], [WARMUP]),
        ([WARMUP], ["--config=sequence.yaml"]),
        (["--config=other.yaml"], ["--config=sequence.yaml"]),
        (["--config=sequence.yaml"], [PLATEAU, "--model.lr_scheduler.monitor=val_loss"]),
    ],
)
def test_another_scheduler_takes_over(before: list[str], after: list[str]) -> None:
    """The new scheduler starts at the position that it would have reached in this run."""
    Path("sequence.yaml").write_text(SEQUENCE)
    Path("other.yaml").write_text(SEQUENCE.replace("CosineAnnealingLR", "PolynomialLR").replace("T_max", "total_iters"))
    short = [*QUICK, "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1"]
    main(["fit", *short, *before, "--trainer.max_epochs=2"])
    main(["fit", *short, *after, "--trainer.max_epochs=4", "--ckpt_path", str(next(Path("runs").rglob("last.ckpt")))])
    (run,) = Path("runs").glob("*/version_0")
    optimizer = torch.optim.SGD([torch.ones(1)], lr=0.1)
    warm = [*replay_schedule(WarmupDecay(optimizer, 16, 0.2), 15)]
    expected = {WARMUP: warm, "--config=sequence.yaml": sequence_rates(0.1, 16)}.get(after[0], [0.1] * 16)
    assert [row["lr"] for row in rows_of(run)][2:] == pytest.approx([expected[8], expected[12]], rel=1e-6)


def test_a_printed_sequence_is_a_config(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    Path("sequence.yaml").write_text(SEQUENCE)
    printed = []
    for config in ("sequence.yaml", "printed.yaml"):
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *QUICK, "--config", config, "--print_config"])
        assert not exit_.value.code
        printed.append(capsys.readouterr().out)
        Path("printed.yaml").write_text(printed[-1])
    assert printed[0] == printed[1]
    assert "total_iters: -1" in printed[0]
    # Options can also be given on the command line, and mistakes in them are refused.
    option = "--model.lr_scheduler.milestones"
    message = "milestones must be increasing fractions between 0 and 1, not [4.0]"
    assert message in refused("fit", *QUICK, "--config", "sequence.yaml", option, "[4]")
    assert "2 schedulers need 1 milestones, not 0" in refused("fit", *QUICK, "--config", "sequence.yaml", option, "[]")
    endless = ("--trainer.max_epochs=-1", "--trainer.max_steps=-1", "--trainer.max_time=00:00:01:00")
    assert "the schedule needs a fixed training length" in refused("fit", *QUICK, "--config=sequence.yaml", *endless)
