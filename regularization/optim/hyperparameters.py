"""Hyperparameters of an optimizer and its scheduler: recorded in checkpoints, and put back in force after a restore."""

import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from regularization.errors import UserError

Hyperparameters = dict[str, Any]
Scheduler = LRScheduler | ReduceLROnPlateau


def hyperparameters(optimizer: Optimizer, scheduler: Scheduler | None) -> Hyperparameters:
    """What the config asked of a fresh optimizer and scheduler, as plain numbers and strings to keep in a checkpoint.

    Must be taken before the first step: afterwards the two hold state as well.
    """
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return {
        "optimizer": type(optimizer).__name__,
        "groups": _plain(groups),
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "schedule": None if scheduler is None else _plain(scheduler.state_dict()),
    }


def check_continues(then: Hyperparameters, now: Hyperparameters) -> None:
    """Checks that an optimizer with settings ``now`` can take over the state of one with settings ``then``.

    Raises:
        UserError: When it is another kind of optimizer, or its parameters are grouped otherwise.
    """
    if then["optimizer"] != now["optimizer"]:
        raise UserError(
            f"the checkpoint's optimizer is {then['optimizer']}, the config asks for {now['optimizer']}, "
            "which can't take over its state. Start a new run by leaving --ckpt_path out."
        )
    if len(then["groups"]) != len(now["groups"]):
        raise UserError(
            f"the checkpoint's optimizer has {len(then['groups'])} parameter groups, the config makes "
            f"{len(now['groups'])}. Start a new run by leaving --ckpt_path out."
        )


def apply_overrides(
    optimizer: Optimizer,
    scheduler: Scheduler | None,
    then: Hyperparameters,
    fresh: tuple[Optimizer, Scheduler | None],
    reached: int,
) -> None:
    """Puts what the config asks for into an optimizer and a scheduler that were restored from a checkpoint.

    Call it only when the settings changed: without it, everything restored goes on to the bit. The new schedule is
    followed from its start to the point the run has reached and goes on from there. Buffers (momentum) stay.

    Args:
        optimizer: Restored from the checkpoint; changed in place.
        scheduler: Likewise.
        then: Settings when the checkpoint's run was started.
        fresh: The two as the config makes them; used up.
        reached: How often the scheduler would have stepped so far.
    """
    fresh_optimizer, fresh_scheduler = fresh
    if isinstance(scheduler, ReduceLROnPlateau):
        if then["scheduler"] == type(scheduler).__name__:
            _keep_cuts(optimizer, then, fresh_optimizer)
        now = fresh_scheduler.state_dict() if fresh_scheduler else {}
        scheduler.load_state_dict(
            {key: now[key] for key in now if (then["schedule"] or {}).get(key) != _plain(now[key])}
        )
    elif isinstance(fresh_scheduler, LRScheduler) and scheduler is not None:
        replay_schedule(fresh_scheduler, reached)
        scheduler.load_state_dict(fresh_scheduler.state_dict())
    for group, after in zip(optimizer.param_groups, fresh_optimizer.param_groups, strict=True):
        group.update({key: value for key, value in after.items() if key != "params"})


def _keep_cuts(optimizer: Optimizer, then: Hyperparameters, fresh: Optimizer) -> None:
    """ReduceLROnPlateau's cuts so far depended on metrics and can't be followed: they are kept as a factor."""
    for group, before, after in zip(optimizer.param_groups, then["groups"], fresh.param_groups, strict=True):
        after["lr"] *= group["lr"] / before["lr"]


def replay_schedule(scheduler: LRScheduler, steps: int) -> list[float]:
    """Steps ``scheduler`` that often; returns the first group's learning rates on the way, the first included."""
    rates = [float(scheduler.optimizer.param_groups[0]["lr"])]
    with warnings.catch_warnings():
        # torch warns of a scheduler that steps without its optimizer, which is what is meant here.
        warnings.simplefilter("ignore")
        for _ in range(steps):
            scheduler.step()
            rates.append(float(scheduler.optimizer.param_groups[0]["lr"]))
    return rates


def _plain(value: Any) -> Any:
    """``value`` with only what a checkpoint may hold: numbers, strings, None, lists and dicts of them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else repr(type(value))
