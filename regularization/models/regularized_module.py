"""RegularizedModule: a LightningModule with the optimizer, schedules, weight decay and penalties of the config."""

import math
from typing import Any

from lightning import LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from regularization.data.image_data import ImageData
from regularization.errors import UserError, did_you_mean
from regularization.internals.lightning import training_length
from regularization.models.metrics import check_is_metric, check_mode
from regularization.optim.applied import Regularizer
from regularization.optim.factory import OptimizerFactory, OptimizerMaker
from regularization.optim.hyperparameters import Hyperparameters, apply_overrides, same_scheduler
from regularization.optim.penalties import Penalty
from regularization.optim.schedules import SchedulerMaker, StrengthSchedule
from regularization.optim.weight_decay import Decay
from regularization.runs import resume


class RegularizedModule(LightningModule):
    """Makes the optimizer, and applies λ at each step. Subclasses define the loss and the metrics.

    The arguments are those of ``ImageClassifier``.

    Attributes:
        network: The network that is optimized.
        regularizer: The penalties, bound to the parameters of the network.
        optimization: Makes the optimizer and the scheduler, and applies the schedule of λ.
        validated: Whether the current epoch has validation metrics.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerMaker,
        lr_scheduler: SchedulerMaker | None,
        penalties: dict[str, Penalty | None],
        decay: Decay,
        decay_schedule: StrengthSchedule | None,
        timescale_epochs: float | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.regularizer = Regularizer(network, penalties)
        self.optimization = OptimizerFactory(network, optimizer, lr_scheduler, decay, decay_schedule, timescale_epochs)
        self.validated = False
        self._saved_hyperparameters: Hyperparameters | None = None  # in the checkpoint that the run continues from

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the scheduler with the interval at which it steps."""
        self._check_trainable()
        self._check_monitors()
        self._prepare_optimization()
        optimizer, scheduler = self.optimization.build()
        self._check_gradient_scaler(optimizer)
        self.regularizer.start()
        # A hook of the optimizer runs only after actual steps: not while gradients are accumulated, and not if a
        # gradient scaler skips the step.
        optimizer.register_step_post_hook(self._after_step)
        if scheduler is None:
            return optimizer
        config = LRSchedulerConfigType(scheduler=scheduler, interval=self.optimization.interval(scheduler))
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = str(getattr(scheduler, "monitor", "val_loss"))
            self._check_monitor("the scheduler", monitor, scheduler.mode)
            config["monitor"] = monitor
            config["strict"] = False  # step_plateau_schedulers checks the metric itself
        return {"optimizer": optimizer, "lr_scheduler": config}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients, then applies λ. Lightning calls it before each step, with unscaled gradients."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        progress = self.progress()
        self.optimization.apply_decay_schedule(optimizer, progress)
        self.regularizer.add_gradients(*progress)

    @property
    def lr(self) -> float:
        """The learning rate of the optimizer, the peak of its schedule; Lightning's learning-rate finder sets it."""
        group = self.optimization.hyperparameters["groups"][0]
        return float(group.get("initial_lr", group["lr"]))

    @lr.setter
    def lr(self, value: float) -> None:
        self.optimization.set_lr(value)

    def progress(self) -> tuple[float, float]:
        """``(time, lr_ratio)``, on which the schedules of λ depend, see ``OptimizerFactory.progress``."""
        return self.optimization.progress(self.trainer.global_step, self.trainer.optimizers[0])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps a scheduler, but not ReduceLROnPlateau, see ``step_plateau_schedulers``."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()

    def step_plateau_schedulers(self) -> None:
        """Steps ReduceLROnPlateau at the end of an epoch, if its metric has a new value.

        Lightning would step it only after the checkpoint of the epoch is saved: a resumed run would miss that step.
        """
        for config in self.trainer.lr_scheduler_configs:
            stale = str(config.monitor).startswith("val_") and not self.validated
            if isinstance(config.scheduler, ReduceLROnPlateau) and not stale:
                config.scheduler.step(self._monitored(str(config.monitor)))

    def on_train_epoch_start(self) -> None:
        """Resets ``validated``."""
        self.validated = False

    def on_train_start(self) -> None:
        """After a restore: applies the hyperparameters of the config if they differ from those of the checkpoint."""
        saved = self._saved_hyperparameters
        batches_done = resume.batches_done(self.trainer, saved is not None)
        if saved is None or saved == self.optimization.hyperparameters:
            return
        config = next(iter(self.trainer.lr_scheduler_configs), None)
        scheduler_steps = self.trainer.current_epoch
        if config is not None and config.interval == "step":
            # Assumes that the previous epochs had as many steps as the coming ones.
            scheduler_steps *= self.optimization.steps_per_epoch
            scheduler_steps += batches_done // self.trainer.accumulate_grad_batches
        scheduler = config.scheduler if config is not None else None
        apply_overrides(self.trainer.optimizers[0], scheduler, saved, self.optimization.build(), scheduler_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the hyperparameters and the state of the penalties."""
        checkpoint["settings"] = self.optimization.hyperparameters
        checkpoint["regularizer"] = self.regularizer.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the penalties, and keeps the hyperparameters of the checkpoint for ``on_train_start``."""
        saved = self._saved_hyperparameters = checkpoint.get("settings")
        if saved is not None and not same_scheduler(saved, self.optimization.hyperparameters):
            checkpoint["lr_schedulers"] = []  # the new scheduler could not load it; on_train_start replays its schedule
        self.regularizer.load_state_dict(checkpoint.get("regularizer", {}))

    def image_data(self) -> ImageData | None:
        """The trainer's datamodule; None if the trainer has been given data loaders or another datamodule."""
        data = getattr(self.trainer, "datamodule", None)
        return data if isinstance(data, ImageData) else None

    def _prepare_optimization(self) -> None:
        self.trainer.fit_loop.setup_data()
        batches = self.trainer.num_training_batches
        if not 0 < batches < math.inf:
            raise UserError("there is nothing to train on: --trainer.limit_train_batches leaves no batch per epoch")
        steps, steps_per_epoch = training_length(self.trainer)
        if steps == math.inf and any(penalty.schedule for penalty in self.regularizer.penalties.values()):
            raise UserError(
                "the schedule of a penalty needs a fixed training length: "
                "set --trainer.max_epochs or --trainer.max_steps"
            )
        self.optimization.prepare(steps, steps_per_epoch)

    def _check_gradient_scaler(self, optimizer: Optimizer) -> None:
        has_scaler = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if has_scaler and getattr(optimizer, "_step_supports_amp_scaling", False):
            # A fused optimizer unscales the gradients inside its step: before it, they can't be clipped or added to.
            raise UserError(
                "a fused optimizer cannot be combined with precision 16-mixed: use bf16-mixed, or leave out fused"
            )

    def _check_trainable(self) -> None:
        if not any(w.requires_grad for w in self.network.parameters()):
            raise UserError("there is nothing to train: the network has no parameters, or all of them are frozen")

    def _check_monitors(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
                name = type(callback).__name__
                user = "the objective" if name == "BestCheckpoint" else name
                self._check_monitor(user, callback.monitor, callback.mode)

    def _check_monitor(self, user: str, metric: str, mode: str) -> None:
        check_is_metric(user, metric, [self, *self.trainer.callbacks])  # type: ignore[attr-defined]
        check_mode(user, metric, mode)
        data = self.image_data()
        if metric.startswith("val_") and data is not None and data.val_size is None and user != "the objective":
            raise UserError(f"{user} monitors {metric}, but there are no validation images: --data.val_size is null")

    def _monitored(self, metric: str) -> Tensor:
        metrics = self.trainer.callback_metrics
        if metric not in metrics:
            raise UserError(f"the scheduler monitors {metric}, which is not a metric{did_you_mean(metric, metrics)}")
        return metrics[metric]

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        self.regularizer.apply_prox(optimizer, *self.progress())
        self.regularizer.update_references()
