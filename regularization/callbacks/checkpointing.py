"""Checkpoint callbacks: ``best.ckpt``, and ``last.ckpt``, which is also written when a signal stops the run."""

import os
import signal
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from regularization.callbacks.history import VALIDATION
from regularization.errors import UserError, did_you_mean
from regularization.internals.lightning import (
    resume_with_validation,
    stop_sigterm_broadcast,
    take_sigterm,
    validates_next,
)
from regularization.models.classifier import ImageClassifier
from regularization.models.objective import ACCURACY, Objective
from regularization.runs.checkpoint_io import BEST, LAST
from regularization.runs.distributed import RankConsensus

# Seconds after a signal during which another signal, by its number, counts as a repetition, not as a second request.
# A sweep passes SIGTERM on to its workers, which have already received it if it was sent to all processes of a job.
# SLURM sends SIGUSR1 before the time limit if the job asks for it.
REPETITION: dict[int, float] = {signal.SIGINT: 0.0, signal.SIGTERM: 0.5, signal.SIGUSR1: 0.5}
# torchrun passes a terminal's Ctrl-C on to processes that have already received it.
REPETITION_BY_LAUNCHER = 5.0
# Takes the place of a signal number when the time limit of a run has passed.
TIME_OVER = 1000


class RunInterrupted(Exception):  # noqa: N818 - requested by the user, not an error
    """Raised when a signal or the time limit stops the run.

    Attributes:
        number: The number of the signal, or ``TIME_OVER``.
    """

    def __init__(self, number: int) -> None:
        super().__init__("the time limit (--hours)" if number == TIME_OVER else signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + the signal number, as in a shell; 0 for the time limit, because the run then ends as planned."""
        return 0 if self.number == TIME_OVER else 128 + self.number


class BestCheckpoint(ModelCheckpoint):
    """Writes ``best.ckpt`` after each epoch with the best value of the objective so far.

    Args:
        folder: The folder that the file is written to. A resumed run may use another folder than before.
        objective: The validation metric that is compared.
    """

    def __init__(self, folder: Path, objective: Objective = ACCURACY) -> None:
        super().__init__(
            folder,
            filename=Path(BEST).stem,
            monitor=objective.metric,
            mode=objective.mode,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns if epochs do not end with a validation: the file then holds later weights than the validated ones."""
        super().on_train_start(trainer, pl_module)
        interval = trainer.val_check_batch if any(trainer.num_val_batches) else 1
        if not isinstance(interval, int) or (trainer.num_training_batches % interval and not trainer.global_step):
            warnings.warn(
                "--trainer.val_check_interval: the last validation of an epoch is before its end, so best.ckpt has "
                "later weights than those that were validated",
                stacklevel=2,
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Skips epochs before the first validation, about which Lightning would warn each time.

        Raises:
            UserError: When the metric is not logged.
        """
        logged, metric = trainer.callback_metrics, str(self.monitor)
        assert isinstance(pl_module, ImageClassifier)
        # A run without validation logs no validation metrics.
        is_due = not any(trainer.num_val_batches) and not metric.startswith((*VALIDATION, "gap_"))
        if metric in logged:
            super().on_train_epoch_end(trainer, pl_module)
        elif pl_module.validated or is_due:
            names = sorted(name for name in logged if "/" not in name)
            closest = did_you_mean(metric, names)
            raise UserError(f"objective: {metric} is not logged{closest}.\nLogged are {', '.join(names)}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the scores, which Lightning drops when the path of the folder has changed."""
        self.current_score = state_dict["current_score"]
        if not state_dict["best_model_path"]:
            # Lightning deletes the files that it takes for former best ones, so no other path is restored, either.
            none: dict[str, Any] = {"dirpath": self.dirpath, "kth_best_model_path": "", "best_k_models": {}}
            return super().load_state_dict(state_dict | none)
        path = str(Path(str(self.dirpath)) / BEST)
        score = state_dict["best_model_score"] if Path(path).is_file() else None
        paths = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        return super().load_state_dict(state_dict | paths | {"best_k_models": {} if score is None else {path: score}})


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` after each epoch, at intervals within an epoch, and when a signal stops the run.

    After SIGINT, SIGTERM or SIGUSR1, the run finishes the current optimizer step and raises ``RunInterrupted``; a
    second signal ends the process at once. During a validation, the checkpoint holds the state before it, and a resumed
    run repeats the validation. If one of several processes receives a signal, all of them end after the same step, and
    a validation that is running is completed first.

    The run also ends after an optimizer step when its time limit has passed. Lightning's Timer would end the epoch at
    that step, so that a resumed run would skip the rest of it, and it would add up the time of all starts of the run.

    Args:
        folder: The folder that the file is written to.
        consensus: Makes all processes write and stop at the same step.
        minutes: Minutes between two checkpoints within an epoch; None disables these checkpoints.
        steps: Optimizer steps between two checkpoints within an epoch; None disables these checkpoints.
        hours: Hours from now after which the run is stopped, or None.
    """

    def __init__(
        self,
        folder: Path,
        consensus: RankConsensus,
        minutes: float | None = None,
        steps: int | None = None,
        hours: float | None = None,
    ) -> None:
        self._path = folder / LAST
        self._consensus = consensus
        self._minutes = float("inf") if minutes is None else minutes
        self._steps = steps
        self._end = None if hours is None else time.monotonic() + 3600 * hours
        self._signal: int | None = None
        self._signal_time = 0.0
        self._repetition = REPETITION
        self._step = self._written_step = self._first_step = 0
        self._written_time = 0.0
        self._accumulating = False  # whether the current optimizer step needs more batches
        self._before_validation = False
        self._up_to_date = False  # whether the file holds the current state
        self._answer_outdated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Installs the signal handlers; Lightning restores the previous ones at the end."""
        self._written_time = time.monotonic()
        self._step = self._written_step = self._first_step = trainer.global_step
        self._consensus.start(trainer)
        if trainer.world_size > 1:
            self._repetition = dict.fromkeys(REPETITION, REPETITION_BY_LAUNCHER)
            stop_sigterm_broadcast(trainer)
        if take_sigterm(trainer):
            # SIGTERM arrived before there was anything to write.
            self._signal = signal.SIGTERM
        if threading.current_thread() is threading.main_thread():
            for number in REPETITION:
                signal.signal(number, self._handle_signal)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes that the file no longer holds the current state."""
        self._up_to_date = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops or writes after an optimizer step, except the last one of an epoch, after which it writes anyway."""
        self._accumulating = trainer.global_step == self._step
        self._step = trainer.global_step
        if self._accumulating:
            return
        self._before_validation = validates_next(trainer)
        last_batch = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        epoch_ends = (last_batch or self._step == trainer.max_steps) and not self._before_validation
        overdue = time.monotonic() - self._written_time >= 60 * self._minutes
        stop, write = self._consensus.poll(self._request(), overdue)
        if stop and not epoch_ends:
            raise RunInterrupted(stop)
        write = (write and not self._answer_outdated) or self._steps_passed()
        self._answer_outdated = False
        if write and not epoch_ends and not self._before_validation:
            self._write(trainer)
            # With several processes, the poll of this step, made before this write, is answered in the next step.
            self._answer_outdated = trainer.world_size > 1

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stops during a validation, unless there are several processes or gradients are being accumulated."""
        if self._signal is not None and trainer.world_size == 1 and not self._accumulating:
            raise RunInterrupted(self._signal)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that no validation is pending."""
        self._before_validation = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes, after the other callbacks have completed the epoch, and stops if a signal or the time limit asks."""
        self._before_validation = False
        self._write(trainer)
        # The time limit ends a run that has taken a step and has more to do.
        goes_on = trainer.global_step > self._first_step and not _is_last_epoch(trainer)
        stop, _ = self._consensus.sync(self._request() if goes_on else self._signal or 0, 0)
        if stop:
            raise RunInterrupted(stop)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes the current state after a signal. After an error, the previous checkpoint is the better one."""
        if isinstance(exception, RunInterrupted) and not self._up_to_date:
            self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds whether training was stopped early, and makes a resumed run begin with an interrupted validation."""
        checkpoint["should_stop"] = trainer.should_stop
        if self._before_validation:
            resume_with_validation(checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Does not continue a run that was stopped early, unless its config has changed."""
        same_config = checkpoint["config"] == getattr(pl_module, "config", None)
        trainer.should_stop = same_config and checkpoint.get("should_stop", False)

    def _handle_signal(self, number: int, *_: Any) -> None:
        """Notes the signal; a second one ends the process."""
        if self._signal is not None and time.monotonic() - self._signal_time >= self._repetition[number]:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal, self._signal_time = number, time.monotonic()

    def _request(self) -> int:
        """The signal that has arrived, or ``TIME_OVER``; 0 if the run may continue."""
        is_over = self._end is not None and time.monotonic() >= self._end
        return self._signal or (TIME_OVER if is_over else 0)

    def _steps_passed(self) -> bool:
        """Whether a multiple of ``steps`` lies between the previous checkpoint and now; the same in all processes."""
        return self._steps is not None and self._step // self._steps > self._written_step // self._steps

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path)
        self._up_to_date = True
        self._written_time, self._written_step = time.monotonic(), trainer.global_step


def _is_last_epoch(trainer: Trainer) -> bool:
    """Whether the training ends with the current epoch."""
    return (
        trainer.should_stop
        or trainer.global_step == trainer.max_steps
        or trainer.current_epoch + 1 == trainer.max_epochs
    )
