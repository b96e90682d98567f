"""Checks of Trainer options: values that Lightning accepts silently, and options that a run cannot use."""

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder

from regularization.errors import UserError
from regularization.models.objective import Objective
from regularization.training.configs import Config

# The smallest value of options that Lightning does not check itself.
_MINIMA = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "min_epochs": 0,
    "num_sanity_val_steps": -1,
}
# Options that would have no effect, or would remove an essential part of a run.
_UNUSABLE = {
    "barebones": "a run writes its log, its checkpoints and its progress",
    "use_distributed_sampler": "the order of the images is the same for any number of devices, by a sampler of our own",
}


def check_trainer_options(options: Mapping[str, Any], callbacks: Sequence[Callback]) -> None:
    """Checks the Trainer options that Lightning does not check, or checks only after training has begun.

    Raises:
        UserError: When an option cannot be used; the message names it and its value.
    """
    for name, minimum in _MINIMA.items():
        if (value := options.get(name)) is not None and value < minimum:
            raise UserError(f"--trainer.{name} must be at least {minimum}, not {value}")
    if options.get("val_check_interval") == 0:
        raise UserError("--trainer.val_check_interval must be above 0; --trainer.limit_val_batches 0 does not validate")
    least, most = options.get("min_epochs"), options.get("max_epochs")
    if least is not None and most is not None and 0 <= most < least:
        raise UserError(f"--trainer.min_epochs {least} is more than --trainer.max_epochs {most}")
    for name, reason in _UNUSABLE.items():
        if options.get(name):
            raise UserError(f"--trainer.{name} cannot be used: {reason}")
    plugins = options.get("plugins") or []
    if any(isinstance(plugin, CheckpointIO) for plugin in (plugins if isinstance(plugins, list) else [plugins])):
        raise UserError("--trainer.plugins: checkpoints are always written by a plugin of this program")
    _check_tuners(callbacks)


def check_before_trainer(config: Namespace) -> None:
    """Checks the options that are used before there is a Trainer, and those that are not options of the Trainer.

    Raises:
        UserError: If NumPy would not accept the seed, the folder of all runs is a URL, the objective has no
            direction, or two options limit the time.
    """
    Objective.parse(config.objective)
    if config.hours is not None and config.trainer.max_time is not None:
        raise UserError("--hours and --trainer.max_time both limit the time: give one of them (null removes the other)")
    if not 0 <= config.seed_everything < 2**32:
        raise UserError(f"--seed_everything must be from 0 to {2**32 - 1}, not {config.seed_everything}")
    if "://" in str(config.trainer.default_root_dir):
        raise UserError("--trainer.default_root_dir must be a folder of this machine, not an address")


def for_scoring(config: Config) -> Config:
    """The config of a checkpoint without its loggers and callbacks, which scoring does not use."""
    trainer = config.get("trainer")
    if isinstance(trainer, dict):
        trainer = {name: value for name, value in trainer.items() if name not in ("callbacks", "logger", "profiler")}
    return {**config, "trainer": trainer, "callbacks": {}}


def _check_tuners(callbacks: Sequence[Callback]) -> None:
    """Rejects callbacks that choose the learning rate or the batch size: a run must be what its config.yaml says."""
    for cls, option in ((LearningRateFinder, "--model.optimizer.lr"), (BatchSizeFinder, "--data.batch_size")):
        if any(isinstance(callback, cls) for callback in callbacks):
            raise UserError(
                f"{cls.__name__} would train with another value than config.yaml says: find it with Lightning's Tuner "
                f"in a script, and give {option}"
            )
