"""NonFiniteGuard: stops the run when a loss, a gradient or a weight is NaN or infinite, before it is saved anywhere."""

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from regularization.errors import UserError
from regularization.models.classifier import ImageClassifier
from regularization.runs.distributed import gather_rows


class NonFiniteGuard(Callback):
    """Raises ``UserError`` in the step whose loss or gradient is NaN or infinite, before it changes the weights.

    On a GPU, this check would make the host wait for the device in every step. There, the first such step is recorded
    on the device, and checked every ``log_every_n_steps`` steps and before anything is written. With a gradient scaler,
    infinite gradients are normal, and only the loss is checked. Several processes check together: a non-finite loss in
    one process makes the gradients of all processes non-finite, and all of them stop.
    """

    def __init__(self) -> None:
        # The first step whose loss or gradient is not finite, on the device; -1 if there is none.
        self._first_steps: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the records."""
        self._first_steps = {name: torch.tensor(-1, device=pl_module.device) for name in ("loss", "gradient")}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Checks the loss."""
        self._check("loss", loss.detach(), trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Checks the gradients, by the sum of their norms."""
        if not getattr(trainer.precision_plugin, "scaler", None):
            weights = [w for group in optimizer.param_groups for w in group["params"]]
            if gradients := [w.grad for w in weights if w.grad is not None]:
                norms = torch._foreach_norm(gradients)
                self._check("gradient", torch.stack(list(norms)).sum(), trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Checks the validation loss: finite weights can still give one that is not."""
        self._raise_if_recorded(trainer, pl_module)
        loss = trainer.callback_metrics.get("val_loss")
        if trainer.state.fn == "fit" and loss is not None and not bool(loss.isfinite()):
            raise _divergence_error(f"the validation loss is {loss.item()}", trainer.global_step, trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Prevents a checkpoint of a run that has diverged."""
        self._raise_if_recorded(trainer, pl_module)
        norms = torch.stack(list(torch._foreach_norm([w.detach() for w in pl_module.parameters()])))
        if not bool(norms.isfinite().all()):
            raise _divergence_error("some weights are not finite", trainer.global_step, trainer, pl_module)

    def checks_every_step(self, trainer: Trainer) -> bool:
        """Whether reading a value from the device costs nothing."""
        return trainer.strategy.root_device.type == "cpu"

    def _check(self, name: str, value: Tensor, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        every_step = self.checks_every_step(trainer)
        if every_step and trainer.world_size == 1:
            if not math.isfinite(value.item()):
                raise _divergence_error(f"the {name} is not finite", step, trainer, pl_module)
            return
        first = self._first_steps[name]
        self._first_steps[name] = torch.where(value.isfinite() | (first >= 0), first, step)
        # The gradient is the same in all processes, which therefore stop together.
        diverged = every_step and name == "gradient" and not math.isfinite(value.item())
        interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if diverged or (interval and step % interval == 0):
            self._raise_if_recorded(trainer, pl_module)

    def _raise_if_recorded(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._first_steps:
            return
        by_process = gather_rows(torch.stack(list(self._first_steps.values()))[None], trainer)
        recorded = [
            (int(step), name == "gradient", name)
            for steps in by_process
            for name, step in zip(self._first_steps, steps, strict=True)
            if step >= 0
        ]
        if recorded:
            # The loss is computed before the gradient of the same step.
            step, _, name = min(recorded)
            raise _divergence_error(f"the {name} is not finite", step, trainer, pl_module)


def _divergence_error(problem: str, step: int, trainer: Trainer, pl_module: LightningModule) -> UserError:
    assert isinstance(pl_module, ImageClassifier)
    group = trainer.optimizers[0].param_groups[0]
    strengths = {name: penalty.strength for name, penalty in pl_module.regularizer.penalties.items()}
    penalties = "".join(f", {name} {strength:g}" for name, strength in strengths.items())
    return UserError(
        f"training diverged: {problem} at step {step} (epoch {trainer.current_epoch + 1}), "
        f"learning rate {group['lr']:.3g}, weight decay {group.get('weight_decay', 0):.3g}{penalties}.\n"
        "Try a tenth of --model.optimizer.lr, --trainer.gradient_clip_val 1, or a smaller λ."
    )
