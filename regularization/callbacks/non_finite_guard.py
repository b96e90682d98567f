"""NonFiniteGuard: a loss, a gradient or a weight that is no finite number stops the run before it is kept anywhere."""

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
    """Stops at the step whose loss or gradient is NaN or infinite, before it changes the weights.

    On a GPU the look itself would make the host wait for the device at every step: there the first such step is noted
    on the device, and asked for every ``log_every_n_steps`` and before anything is written. With a gradient scaler
    infinite gradients are nothing special, and only the loss counts. Several processes look together: the loss of one
    makes the gradients of all infinite, and all stop.
    """

    def __init__(self) -> None:
        self._first: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing has diverged so far."""
        self._first = {what: torch.tensor(-1, device=pl_module.device) for what in ("loss", "gradient")}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Looks at the loss."""
        self._note("loss", loss.detach(), trainer, pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Looks at the gradients, by their norms."""
        if not getattr(trainer.precision_plugin, "scaler", None):
            weights = [w for group in optimizer.param_groups for w in group["params"]]
            norms = torch._foreach_norm([w.grad for w in weights if w.grad is not None])
            self._note("gradient", torch.stack(list(norms)).sum(), trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the validation loss: the weights may still be numbers when what they give is none."""
        self._stop_if_any(trainer, pl_module)
        loss = trainer.callback_metrics.get("val_loss")
        if trainer.state.fn == "fit" and loss is not None and not bool(loss.isfinite()):
            raise _diverged(f"the validation loss is {loss.item()}", trainer.global_step, trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps what has diverged out of checkpoints."""
        self._stop_if_any(trainer, pl_module)
        norms = torch.stack(list(torch._foreach_norm([w.detach() for w in pl_module.parameters()])))
        if not bool(norms.isfinite().all()):
            raise _diverged("some weights are not finite", trainer.global_step, trainer, pl_module)

    def _note(self, what: str, value: Tensor, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        first = self._first[what]
        every = self.looks_at_every_step(trainer)
        if every and trainer.world_size == 1:
            if not math.isfinite(value.item()):
                raise _diverged(f"the {what} is not finite", step, trainer, pl_module)
            return
        self._first[what] = torch.where(value.isfinite() | (first >= 0), first, step)
        # The gradient is the same for all processes.
        found = every and what == "gradient" and not math.isfinite(value.item())
        often = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if found or (often and step % often == 0):
            self._stop_if_any(trainer, pl_module)

    def looks_at_every_step(self, trainer: Trainer) -> bool:
        """Whether a look costs nothing."""
        return trainer.strategy.root_device.type == "cpu"

    def _stop_if_any(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._first:
            return
        notes = gather_rows(torch.stack(list(self._first.values()))[None], trainer)
        found = [
            (int(first), what) for row in notes for what, first in zip(self._first, row, strict=True) if first >= 0
        ]
        if found:
            step, what = min(found, key=lambda pair: (pair[0], pair[1] == "gradient"))
            raise _diverged(f"the {what} is not finite", step, trainer, pl_module)


def _diverged(what: str, step: int, trainer: Trainer, pl_module: LightningModule) -> UserError:
    assert isinstance(pl_module, ImageClassifier)
    group = trainer.optimizers[0].param_groups[0]
    strengths = {name: penalty.strength for name, penalty in pl_module.regularizer.penalties.items()}
    acting = "".join(f", {name} {strength:g}" for name, strength in strengths.items())
    where = f"step {step} (epoch {trainer.current_epoch})"
    return UserError(
        f"training diverged: {what} at {where}, learning rate {group['lr']:.3g}, "
        f"weight decay {group.get('weight_decay', 0):.3g}{acting}.\n"
        "Try a tenth of --model.optimizer.lr, --trainer.gradient_clip_val 1, or a smaller λ."
    )
