"""Hyperparameters of optimizers: those of the config win over those of a checkpoint, and the schedule is replayed."""

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
from tests.training.test_command import RUN


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
    # No loss can improve by more than itself: the learning rate is reduced to a tenth after every epoch.
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
