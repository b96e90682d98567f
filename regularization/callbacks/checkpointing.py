"""When checkpoints are written: ``best.ckpt`` and ``last.ckpt``, and when a signal asks the run to stop."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from regularization.runs.checkpoint_io import BEST, LAST
from regularization.runs.distributed import RankConsensus

# Seconds. What ends all processes of a job by SIGTERM ends a sweep and its workers, to whom the sweep hands it on.
SOON = 0.5


class RunInterrupted(Exception):  # noqa: N818 - asked for from outside, no error
    """The run was asked to stop by a signal, whose number it holds."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the epoch with the highest ``val_accuracy``, also when the run folder was moved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            filename=Path(BEST).stem,
            monitor="val_accuracy",
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without a score nothing is the best, and Lightning would warn of it after each epoch."""
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the scores; Lightning drops them when the folder's path is not the one of before."""
        self.current_score = state_dict["current_score"]
        if not state_dict["best_model_path"]:
            return super().load_state_dict(state_dict | {"dirpath": self.dirpath})
        path = str(Path(str(self.dirpath)) / BEST)
        score = state_dict["best_model_score"] if Path(path).is_file() else None
        here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        return super().load_state_dict(state_dict | here | {"best_k_models": {} if score is None else {path: score}})


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``: written after every epoch, within epochs by the clock or by steps, and on SIGINT or SIGTERM.

    A signal ends the run after the optimizer step it is in, by ``RunInterrupted``; a second one ends it at once. During
    validation, what is written is the state before it, so that it is done again. A signal to one of several processes
    ends them all, after the same step, and validations are gone through.

    Args:
        folder: Where the file goes.
        consensus: By which several processes write and stop at the same step.
        minutes: Time between two writings, in minutes; None writes at the end of epochs only.
        steps: Optimizer steps between two writings, or None.
    """

    def __init__(
        self, folder: Path, consensus: RankConsensus, minutes: float | None = None, steps: int | None = None
    ) -> None:
        self._path = folder / LAST
        self._consensus = consensus
        self._minutes = float("inf") if minutes is None else minutes
        self._steps = steps
        self._signal: int | None = None
        self._patience: dict[int, float] = {signal.SIGINT: 0.0, signal.SIGTERM: SOON}
        self._before_validation = self._current = self._late = False
        self._written, self._step = 0.0, 0
        self._noted = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens to signals, whose former handlers Lightning puts back when it is done."""
        self._written, self._step = time.monotonic(), trainer.global_step
        self._consensus.start(trainer)
        if trainer.world_size > 1:
            # torchrun hands a terminal's Ctrl-C on to processes that have got it already.
            self._patience = dict.fromkeys(self._patience, 5.0)
            # Lightning asks the first process at every step whether it was sent SIGTERM, and waits for the answer.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        if trainer.received_sigterm:
            # It came before there was anything to write.
            self._signal = signal.SIGTERM
            trainer._signal_connector.received_sigterm = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """From here on, what was written is not the newest state."""
        self._current = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Between two optimizer steps, unless the epoch ends here, which writes anyway."""
        loop = trainer.fit_loop.epoch_loop
        if loop._should_accumulate():
            return
        assert trainer.fit_loop._data_fetcher is not None
        self._before_validation = loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        ending = loop._is_training_done and not self._before_validation
        stop, due = self._consensus.poll(self._signal or 0, time.monotonic() - self._written >= 60 * self._minutes)
        if stop and not ending:
            raise RunInterrupted(stop)
        late, self._late = self._late, False
        due = (due and not late) or self._steps_done(trainer)
        if due and not ending and not self._before_validation:
            self._write(trainer)
            # Several processes hear with the next step what they wished for in this one, before it was written.
            self._late = trainer.world_size > 1

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Leaves a validation that nobody can wait for; not where gradients wait for the rest of their batch."""
        alone = trainer.world_size == 1
        if alone and self._signal is not None and not trainer.fit_loop.epoch_loop._should_accumulate():
            raise RunInterrupted(self._signal)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What comes next is training, or the end of the epoch."""
        self._before_validation = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After everyone else has seen the epoch's end, and after its validation, of which there may have been none."""
        self._before_validation = False
        self._write(trainer)
        stop, _ = self._consensus.sync(self._signal or 0, 0)
        if stop:
            raise RunInterrupted(stop)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes what there is when a signal has stopped the run; after an error, what was written before is better."""
        if isinstance(exception, RunInterrupted) and not self._current:
            self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Has a run that was stopped at a validation begin with that validation; notes a run that is over."""
        checkpoint["should_stop"] = trainer.should_stop
        if self._before_validation:
            progress = checkpoint["loops"]["fit_loop"]
            for counts in (progress["epoch_loop.batch_progress"][part] for part in ("total", "current")):
                counts["completed"] = counts["processed"]
            # Lightning's sign for a validation that was left: one batch begun, none done.
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            for part in ("total", "current"):
                progress["epoch_loop.val_loop.batch_progress"][part] = dict(begun)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A run that was stopped early is over, unless something else is asked of it now."""
        same = checkpoint["config"] == getattr(pl_module, "config", None)
        trainer.should_stop = same and checkpoint.get("should_stop", False)

    def _note(self, number: int, *_: Any) -> None:
        if self._signal is not None and time.monotonic() - self._noted >= self._patience[number]:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal, self._noted = number, time.monotonic()

    def _steps_done(self, trainer: Trainer) -> bool:
        """Steps are the same for all processes: no need to ask."""
        return self._steps is not None and trainer.global_step // self._steps > self._step // self._steps

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path)
        self._current = True
        self._written, self._step = time.monotonic(), trainer.global_step
