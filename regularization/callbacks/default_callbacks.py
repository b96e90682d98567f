"""The callbacks of ``fit`` in order, and the messages that are printed when it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, LambdaCallback, Timer

from regularization.callbacks.checkpointing import BestCheckpoint, LastCheckpoint
from regularization.callbacks.curves import Curves
from regularization.callbacks.history import History
from regularization.callbacks.monitor import Monitor
from regularization.callbacks.non_finite_guard import NonFiniteGuard
from regularization.callbacks.parameter_report import ParameterReport
from regularization.callbacks.running_metrics import RunningMetrics
from regularization.callbacks.val_logits import ValidationLogits
from regularization.internals.lightning import skip_empty_hooks
from regularization.models.objective import ACCURACY, Objective
from regularization.runs import checkpoint_io, directory
from regularization.runs.distributed import RankConsensus


@dataclass(frozen=True)
class FitCallbacks:
    """The callbacks of one run.

    Attributes:
        ordered: All of them, for the Trainer.
        history: The one that holds a row of metrics per epoch.
        monitor: The one that reports its measurements when the run ends.
        consensus: Used by the processes of the run to agree on when to write and to stop.
    """

    ordered: list[Callback]
    history: History
    monitor: Monitor
    consensus: RankConsensus


def default_callbacks(
    run: Path,
    config: str,
    objective: Objective = ACCURACY,
    minutes: float | None = None,
    steps: int | None = None,
    hours: float | None = None,
    configured: Sequence[Callback] = (),
    last: Sequence[Callback] = (),
) -> FitCallbacks:
    """Creates the callbacks that write into one run folder.

    Args:
        run: The run folder.
        config: The whole config as YAML, for ``config.yaml``.
        objective: The metric whose best epoch is kept.
        minutes: Minutes between two checkpoints within an epoch; see ``LastCheckpoint``.
        steps: Optimizer steps between two checkpoints within an epoch.
        hours: Hours from now after which the run is stopped.
        configured: The callbacks of the config, and the progress bar.
        last: Callbacks that are called after all others.
    """
    checkpoints = run / directory.CHECKPOINTS
    parameter_report, history, consensus = ParameterReport(), History(run, objective), RankConsensus()
    monitor = Monitor(parameter_report, history)
    ordered = [
        parameter_report,
        # Before callbacks that swap the weights for validation, such as EMA, because it measures the swapped weights.
        monitor,
        *configured,
        # It stops the run before the callbacks below write anything.
        NonFiniteGuard(),
        RunningMetrics(),
        _config_writer(run / directory.CONFIG, config),
        Curves(history, objective),
        ValidationLogits(run),
        # Lightning moves these to the end of the list. The history comes first, because the checkpoints contain it.
        history,
        BestCheckpoint(checkpoints, objective),
        LastCheckpoint(checkpoints, consensus, minutes, steps, hours),
        *last,
    ]
    return FitCallbacks([skip_empty_hooks(callback) for callback in ordered], history, monitor, consensus)


def complete_run(history: History, trainer: Trainer, classifier: LightningModule) -> None:
    """Writes the files of a run that was killed just after its last epoch, so that ``fit`` had nothing to train.

    Args:
        history: The history, restored from the checkpoint.
        trainer: The trainer, after ``fit``.
        classifier: The network that was restored.
    """
    print(f"nothing left to train: {_reason_to_end(len(history.rows), trainer)}")
    if history.rows and trainer.is_global_zero and "last" not in directory.read_result(history.folder):
        history.on_train_end(trainer, classifier)
        Curves(history, history.objective).draw()


def _reason_to_end(epochs: int, trainer: Trainer) -> str:
    """Why a resumed run ends immediately."""
    done = "1 epoch is done" if epochs == 1 else f"{epochs} epochs are done"
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"{done} and --trainer.max_steps is {trainer.max_steps}"
    if trainer.max_epochs == -1 or epochs < (trainer.max_epochs or 0):
        enders = [type(callback).__name__ for callback in trainer.callbacks if isinstance(callback, EarlyStopping)]  # type: ignore[attr-defined]
        enders += ["--trainer.max_time"] if any(isinstance(it, Timer) for it in trainer.callbacks) else []  # type: ignore[attr-defined]
        who = " or ".join(enders) or "a callback"
        return f"{done}, then {who} ended the run. To continue it, change that option"
    return f"{done} and --trainer.max_epochs is {trainer.max_epochs}"


def summary(history: History) -> str:
    """The best and the last epoch, and the run folder, in two lines."""
    if not history.rows:
        return f"no epoch was completed in {history.folder}"
    best, objective = history.best(), history.objective
    if objective.metric not in best:
        return f"trained without validation\n{history.folder}"
    value = objective.format(best[objective.metric])
    line = f"best {objective.name} {value} in epoch {best['epoch'] + 1:.0f}"
    last = [row for row in history.rows if objective.metric in row][-1]
    if last is not best:
        line += f", {objective.format(last[objective.metric])} in the last one"
    return f"{line}\n{history.folder}"


def last_checkpoint(run: Path) -> Path | None:
    """The file ``last.ckpt`` of the run, if it exists."""
    path = run / directory.CHECKPOINTS / checkpoint_io.LAST
    return path if path.is_file() else None


def _config_writer(path: Path, config: str) -> Callback:
    """A callback that writes the config when training starts, after all setup: a failed start changes nothing."""

    def write(trainer: Trainer, _: LightningModule) -> None:
        if trainer.is_global_zero:
            directory.write_text(path, config)

    return LambdaCallback(on_train_start=write)
