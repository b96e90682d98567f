"""Private parts of Lightning 2.6, each behind a function that says why there is no public way.

``tests/internals/test_lightning.py`` fails if another release has moved or changed one of them.
"""

import math
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, RichProgressBar
from torch import Tensor

# The hooks that Lightning calls on every callback in every step.
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def skip_empty_hooks(callback: Callback) -> Callback:
    """Stops Lightning from calling the hooks of a step that the callback's class does not override; returns it.

    There is no public way to mark a hook as empty: Lightning opens a profiler section around each hook, but skips an
    attribute that is not callable. Measured: 0.074 ms of the 0.97 ms that a step without a network takes
    (``python -m tests.benchmarks.speed overhead``, 2 CPU cores, 2026-11-27).
    """
    for name in STEP_HOOKS:
        if name not in vars(callback) and getattr(type(callback), name) is getattr(Callback, name):
            setattr(callback, name, None)
    return callback


def validates_next(trainer: Trainer) -> bool:
    """Whether a validation follows the training batch that has just ended.

    The public attributes say only how often validation runs; Lightning computes from six of them whether it runs next.
    """
    data_fetcher = trainer.fit_loop._data_fetcher
    assert data_fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(data_fetcher)


def resume_with_validation(checkpoint: dict[str, Any]) -> None:
    """Changes a checkpoint written before or during a validation: a run resumed from it starts with this validation.

    With Lightning's own checkpoint, a resumed run would skip the validation. A signal to stop would then have to wait
    for the end of the validation: 10,000 images of 96×96 take up to a minute on a CPU, which is all the time that SLURM
    gives (``--signal=TERM@60``). There is no public way: the progress of the loops is private.
    """
    progress = checkpoint["loops"]["fit_loop"]
    for part in ("total", "current"):
        batches = progress["epoch_loop.batch_progress"][part]
        batches["completed"] = batches["processed"]
        # Lightning considers a validation interrupted if one batch has started and none is completed.
        interrupted = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        progress["epoch_loop.val_loop.batch_progress"][part] = interrupted


def restore_callback_metrics(trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
    """Adds ``metrics`` to the trainer's callback metrics, which are lost when a run is resumed.

    The public way to add metrics is ``log``, which belongs to a step or an epoch. This function relies on
    ``callback_metrics`` being Lightning's own dict and not a copy, which is not documented.
    """
    trainer.callback_metrics.update(metrics)


def take_sigterm(trainer: Trainer) -> bool:
    """Returns whether SIGTERM has arrived, and clears the flag, so that Lightning does not end the run itself.

    The public ``trainer.received_sigterm`` can only be read.
    """
    received, trainer._signal_connector.received_sigterm = trainer.received_sigterm, False
    return received


def set_sigterm_handler(trainer: Trainer, handler: Callable[[int, FrameType | None], None]) -> None:
    """Makes the signal handler that Lightning installs in ``fit`` call ``handler`` on SIGTERM.

    With several processes, Lightning's own handler broadcasts from inside the handler and waits for the others, for up
    to half an hour; no option turns that off.
    """
    trainer._signal_connector._sigterm_notifier_fn = handler  # type: ignore[method-assign, assignment]


def stop_sigterm_broadcast(trainer: Trainer) -> None:
    """Disables the broadcast at every step by which processes learn whether the first one has received SIGTERM.

    Each step would wait for it; no option turns it off. ``RankConsensus`` does the same without waiting.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def forbid_requeue(trainer: Trainer) -> None:
    """Keeps Lightning from handling SIGUSR1 on SLURM.

    It would write a checkpoint next to the run folders, which all later runs would start from, and requeue the job. The
    option is an argument of SLURMEnvironment, which Lightning creates itself.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False


def launcher_rank() -> int:
    """The rank that torchrun, srun or Lightning has given this process in its environment; 0 without a launcher.

    Before there is a Trainer, the public ``rank_zero_only.rank`` is that of the environment at import.
    """
    return _get_rank() or 0


def reset_rank() -> None:
    """Makes this process the first one again for ``rank_zero_only``, which keeps the rank that it had at import."""
    rank_zero_only.rank = 0  # type: ignore[attr-defined]


def is_between_epochs(trainer: Trainer) -> bool:
    """Whether every epoch that was started has been trained to its end, which the public attributes do not say."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return bool(epochs.processed == epochs.started)


def begin_next_epoch(trainer: Trainer) -> None:
    """Makes a run that is resumed between two epochs begin the next one.

    With ``max_steps`` set, Lightning would enter the epoch that the checkpoint has finished, and end it once more:
    ``fit_loop.restarting`` can't be set to False then.
    """
    loop = trainer.fit_loop
    for counts in (loop.epoch_progress.total, loop.epoch_progress.current):
        counts.completed = counts.processed  # type: ignore[attr-defined]
    loop._restarting = False
    loop.reset_restart_stage()
    loop.epoch_loop.restarting = False
    loop.epoch_loop.reset_restart_stage()


def batches_of_epoch(trainer: Trainer) -> int:
    """How many batches of the current epoch have been trained on, as Lightning counts; the count is private."""
    counts: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(counts.processed)


def set_batches_of_epoch(trainer: Trainer, batches: int) -> None:
    """Sets the number of batches of the current epoch that have been trained on; the count is private."""
    counts: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    counts.completed += batches - counts.processed
    counts.ready = counts.started = counts.processed = batches


def raised_by_lightning(error: BaseException) -> bool:
    """Whether Lightning's own code raised ``error``, and not code that it called.

    For incompatible options, Lightning raises ValueError or ImportError, like any other code, and mostly only once
    training starts; it has no exception class of its own for them.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and str(traceback.tb_frame.f_globals.get("__name__")).startswith("lightning.")


def training_length(trainer: Trainer) -> tuple[float, int]:
    """The optimizer steps of the whole run, infinite if it has no end, and those of an epoch.

    The public ``estimated_stepping_batches`` uses the ``accumulate_grad_batches`` of the current epoch for all epochs,
    even if the callback GradientAccumulationScheduler changes it. The steps of an epoch are then the mean over epochs.
    """
    steps, batches = float(trainer.estimated_stepping_batches), trainer.num_training_batches
    schedule = next((it for it in trainer.callbacks if isinstance(it, GradientAccumulationScheduler)), None)  # type: ignore[attr-defined]
    epochs = max(trainer.max_epochs or 1, 1)
    if schedule is None or trainer.max_epochs == -1:
        return steps, math.ceil(batches / trainer.accumulate_grad_batches)
    total = sum(math.ceil(batches / schedule.get_accumulate_grad_batches(epoch)) for epoch in range(epochs))
    return float(total if trainer.max_steps == -1 else min(total, trainer.max_steps)), math.ceil(total / epochs)


class ProgressBarFromOne(RichProgressBar):
    """Lightning's progress bar with the epochs counted from 1, as they are in all that is printed.

    No option sets its text.
    """

    def _get_train_description(self, current_epoch: int) -> str:
        total = self.trainer.max_epochs
        text = f"Epoch {current_epoch + 1}" + (f"/{total}" if total is not None and total != -1 else "")
        # Padded to the length of the validation text, so that the bars do not move.
        return f"{text:{len(self.validation_description)}}"
