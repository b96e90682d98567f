"""When a run is continued, what the config says wins over what the checkpoint holds; the rest goes on exactly."""

import warnings
from typing import Any

from lightning import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from regularization.data.datamodules import ImageData
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


def batches_done(trainer: Trainer, continued: bool) -> int:
    """The batches of this epoch that a restored run has behind it; puts right what Lightning counts of them."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if epochs.processed == epochs.started:
        if continued and trainer.fit_loop.restarting:
            _begin_next_epoch(trainer)
        if batches.ready != trainer.num_training_batches:
            # An epoch that max_steps cut short, or whose batches had another size, counts as done all the same;
            # Lightning would begin the next one where it was cut.
            batches.reset()
        return 0
    if continued and isinstance(data := getattr(trainer, "datamodule", None), ImageData):
        # The batch size may be another one now: what is left of the epoch counts.
        batches.completed += data.batches_done() - batches.processed
        batches.ready = batches.started = batches.processed = data.batches_done()
    return int(batches.processed)


def _begin_next_epoch(trainer: Trainer) -> None:
    """With max_steps set, Lightning would enter the epoch that the checkpoint has finished, and end it once more."""
    loop = trainer.fit_loop
    for part in (loop.epoch_progress.total, loop.epoch_progress.current):
        part.completed = part.processed  # type: ignore[attr-defined]
    loop._restarting = False
    loop.reset_restart_stage()
    loop.epoch_loop.restarting = False
    loop.epoch_loop.reset_restart_stage()


def _plain(value: Any) -> Any:
    """``value`` with only what a checkpoint may hold: numbers, strings, None, lists and dicts of them."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else repr(type(value))
