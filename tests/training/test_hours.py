"""``fit --hours``: a run that is stopped when its time is over, and continued."""

from collections.abc import Callable

import pytest
import torch
import yaml

from regularization import UserError, fit
from regularization.cli.main import main
from tests.conftest import BASE, rows_of
from tests.training.test_command import QUICK, RUN

Refused = Callable[..., str]
TINY = ("fit", *QUICK, "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "1")
# So short that it has passed after any step.
NO_TIME = ("--hours", "1e-9")


def stopped(*args: str) -> None:
    """Runs ``fit``, which must be stopped with exit code 0."""
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    assert exit_.value.code == 0


def test_each_start_has_its_own_time_and_nothing_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, "--trainer.max_epochs", "2"]
    main(args)
    expected = rows_of(RUN)
    whole = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    capsys.readouterr()
    stopped(*args, *NO_TIME, "--test", "last")
    said = capsys.readouterr().out
    second = RUN.with_name("version_1")
    assert f"stopped by the time limit (--hours) in epoch 1, step 1; no epoch was completed in {second}\n" in said
    assert said.endswith("continue: --ckpt_path last\n")
    assert not (second / "result.json").exists()
    assert "hours" not in yaml.safe_load((second / "config.yaml").read_text())
    # Each start takes one step. The third step is followed by a validation, which the next start runs.
    for step in range(2, 6):
        stopped(*args, *NO_TIME, "--ckpt_path", "last")
        assert f"in epoch {1 if step <= 3 else 2}, step {step};" in capsys.readouterr().out
    main([*args, "--ckpt_path", "last", "--hours", "1"])
    assert [row | {"seconds": 0} for row in rows_of(second)] == [row | {"seconds": 0} for row in expected]
    continued = torch.load(second / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(continued, whole, rtol=0, atol=0)


def test_a_run_that_has_just_finished_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, *NO_TIME, "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"])
    assert "stopped" not in capsys.readouterr().out
    assert (RUN / "result.json").is_file()


def test_an_epoch_of_one_step_without_validation_ends_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    one_step = ["--trainer.limit_train_batches", "1", "--data.val_size", "null", "--trainer.max_epochs", "3"]
    stopped("fit", *QUICK, *one_step, *NO_TIME)
    assert "stopped by the time limit (--hours) in epoch 1" in capsys.readouterr().out


def test_the_time_limit_in_python() -> None:
    quick = {"trainer": {"max_epochs": 2, "limit_train_batches": 3, "limit_val_batches": 1, "accelerator": "cpu"}}
    with pytest.raises(UserError, match='the time limit has stopped the run; ckpt_path="last" continues it'):
        fit([BASE, quick], hours=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hours", "2", "--trainer.max_time", "00:01:00:00"], "--hours and --trainer.max_time both limit the time"),
        (["--hours", "0"], "hours"),
        (["--hours", "-1"], "hours"),
    ],
)
def test_a_limit_that_cannot_be(options: list[str], message: str, refused: Refused) -> None:
    assert message in refused(*TINY, *options)
