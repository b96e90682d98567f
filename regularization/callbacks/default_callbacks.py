"""The callbacks of ``fit``: what looks at a training, writes it down and keeps it."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from regularization.callbacks.checkpointing import BestCheckpoint, LastCheckpoint
from regularization.callbacks.curves import Curves
from regularization.callbacks.history import History
from regularization.callbacks.monitor import Monitor
from regularization.callbacks.non_finite_guard import NonFiniteGuard
from regularization.callbacks.parameter_report import ParameterReport
from regularization.callbacks.running_metrics import RunningMetrics
from regularization.callbacks.saved_config import SavedConfig
from regularization.callbacks.val_logits import ValidationLogits
from regularization.internals.lightning import skip_empty_hooks
from regularization.runs import checkpoint_io, directory
from regularization.runs.distributed import RankConsensus


class Fitting:
    """The callbacks that write into one run folder.

    Args:
        run: The folder.
        asked: The whole config as YAML.
        every: How often the checkpoint is written within epochs: ``minutes`` and ``steps``.
    """

    def __init__(self, run: Path, asked: str, every: Namespace) -> None:
        self._run = run
        self.audit = ParameterReport()
        self.history = History(run)
        self.monitor = Monitor(self.audit, self.history)
        self.curves = Curves(self.history)
        self._config, self._logits = SavedConfig(run, asked), ValidationLogits(run)
        kept = run / directory.CHECKPOINTS
        self.consensus = RankConsensus()
        self._saving = [BestCheckpoint(kept), LastCheckpoint(kept, self.consensus, every.minutes, every.steps)]

    def around(self, named: Sequence[Callback], last: Sequence[Callback]) -> list[Callback]:
        """All in their order, with those that the config names and those that stand at the end."""
        # The monitor stands before callbacks that swap weights, such as EMA: it looks while they are swapped.
        looking = [self.audit, self.monitor, *named, NonFiniteGuard(), RunningMetrics()]
        writing = [self._config, self.curves, self._logits, self.history, *self._saving]
        return [skip_empty_hooks(callback) for callback in [*looking, *writing, *last]]

    def finish(self, trainer: Trainer, classifier: LightningModule) -> None:
        """Completes a run of which every epoch is done: it may have been killed just after the last."""
        done, asked = len(self.history.rows), trainer.max_epochs
        print(f"nothing left to train: {done} epochs are done, --trainer.max_epochs is {asked}")
        if self.history.rows and trainer.is_global_zero and not (self._run / directory.RESULT).is_file():
            self.history.on_train_end(trainer, classifier)
            self.curves.draw()

    def outcome(self) -> str:
        """The best epoch, and where the run is."""
        if not self.history.rows:
            return f"no epoch was finished in {self._run}"
        best = self.history.best()
        if "val_accuracy" not in best:
            return f"trained without validation\n{self._run}"
        return f"best validation accuracy {best['val_accuracy']:.4f} in epoch {best['epoch']}\n{self._run}"

    def kept(self) -> str:
        """What is left of a run that ended by a mistake."""
        last = self._run / directory.CHECKPOINTS / checkpoint_io.LAST
        return f"kept: {last}" if last.is_file() else ""
