"""Hyperparameters of an optimizer and its scheduler: recorded in checkpoints, and applied after a restore.

A checkpoint restores the optimizer and the scheduler with the hyperparameters that they were saved with. If those of
the config have changed since then, the config takes precedence.
"""

import warnings
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from regularization.errors import UserError

Hyperparameters = dict[str, Any]
Scheduler = LRScheduler | ReduceLROnPlateau


def hyperparameters(optimizer: Optimizer, scheduler: Scheduler | None) -> Hyperparameters:
    """The hyperparameters of a fresh optimizer and scheduler, as plain values that a checkpoint can hold.

    Call it before the first step: afterwards, the parameter groups and the scheduler also hold state.

    Returns:
        ``optimizer`` and ``scheduler``: the names of the classes. ``groups``: the options of each parameter group.
        ``schedule``: the state dict of the scheduler. The last two are None without a scheduler.
    """
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return {
        "optimizer": type(optimizer).__name__,
        "groups": _plain(groups),
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "schedule": None if scheduler is None else _plain(scheduler.state_dict()),
    }


def check_continues(saved: Hyperparameters, current: Hyperparameters) -> None:
    """Checks that the optimizer of the config can load the state of the one in a checkpoint.

    Args:
        saved: Hyperparameters in the checkpoint.
        current: Hyperparameters of the config.

    Raises:
        UserError: If the optimizer is of another class or has another number of parameter groups.
    """
    if saved["optimizer"] != current["optimizer"]:
        raise UserError(
            f"the checkpoint's optimizer is {saved['optimizer']}, but the config asks for {current['optimizer']}, "
            "which cannot load its state. To start a new run, leave out --ckpt_path."
        )
    if len(saved["groups"]) != len(current["groups"]):
        raise UserError(
            f"the checkpoint's optimizer has {len(saved['groups'])} parameter groups, but the config makes "
            f"{len(current['groups'])}. To start a new run, leave out --ckpt_path."
        )


def same_scheduler(saved: Hyperparameters, current: Hyperparameters) -> bool:
    """Whether the config's scheduler has the class of the one in a checkpoint, and can therefore load its state.

    Args:
        saved: Hyperparameters in the checkpoint.
        current: Hyperparameters of the config.
    """
    classes = [(it["scheduler"], (it["schedule"] or {}).get("names")) for it in (saved, current)]
    return classes[0] == classes[1]


def apply_overrides(
    optimizer: Optimizer,
    scheduler: Scheduler | None,
    saved: Hyperparameters,
    fresh: tuple[Optimizer, Scheduler | None],
    scheduler_steps: int,
) -> None:
    """Applies the hyperparameters of the config to an optimizer and a scheduler restored from a checkpoint.

    Call it only if the hyperparameters changed: otherwise training continues bit-identically from the restored state.
    The new schedule is replayed from its start to the current point of the run and continues from there. The buffers of
    the optimizer, such as momentum, are kept.

    Args:
        optimizer: Restored from the checkpoint; changed in place.
        scheduler: Restored from the checkpoint; changed in place.
        saved: Hyperparameters in the checkpoint.
        fresh: Optimizer and scheduler as the config makes them; both are changed.
        scheduler_steps: How often the scheduler has stepped up to the current point.
    """
    fresh_optimizer, fresh_scheduler = fresh
    if isinstance(scheduler, ReduceLROnPlateau):
        if saved["scheduler"] == type(scheduler).__name__:
            _keep_reductions(optimizer, saved, fresh_optimizer)
        state = fresh_scheduler.state_dict() if fresh_scheduler else {}
        schedule = saved["schedule"] or {}
        scheduler.load_state_dict({key: state[key] for key in state if schedule.get(key) != _plain(state[key])})
    elif isinstance(fresh_scheduler, LRScheduler) and scheduler is not None:
        replay_schedule(fresh_scheduler, scheduler_steps)
        scheduler.load_state_dict(fresh_scheduler.state_dict())
    for group, fresh_group in zip(optimizer.param_groups, fresh_optimizer.param_groups, strict=True):
        group.update({key: value for key, value in fresh_group.items() if key != "params"})


def _keep_reductions(optimizer: Optimizer, saved: Hyperparameters, fresh: Optimizer) -> None:
    """Multiplies the learning rates of ``fresh`` by the factor by which ReduceLROnPlateau has reduced them so far.

    The reductions depended on metrics, so that they cannot be replayed.
    """
    groups = zip(optimizer.param_groups, saved["groups"], fresh.param_groups, strict=True)
    for group, saved_group, fresh_group in groups:
        fresh_group["lr"] *= group["lr"] / saved_group["lr"]


def replay_schedule(scheduler: LRScheduler, steps: int) -> list[float]:
    """Steps ``scheduler`` the given number of times.

    Returns:
        The learning rates of the first parameter group, ``steps`` + 1 numbers that include the initial one.
    """
    rates = [float(scheduler.optimizer.param_groups[0]["lr"])]
    with warnings.catch_warnings():
        # torch warns about a scheduler that steps without its optimizer, which is intended here.
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
