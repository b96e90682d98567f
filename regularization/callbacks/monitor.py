"""The monitor: what λ does while the network trains, measured once an epoch, and one sentence at the end."""

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import SGD, Optimizer

from regularization.callbacks.history import History
from regularization.callbacks.parameter_report import ParameterReport
from regularization.models.classifier import ImageClassifier
from regularization.models.metrics import EpochMetrics
from regularization.optim.penalties import filters
from regularization.optim.weight_decay import decay_per_step, is_decoupled, momentum_gain

EVERY = 100  # optimizer steps between two looks at the gradients, of which every epoch has one at least


class Monitor(Callback):
    """Logs, each epoch:

    ``clean_loss``, ``clean_accuracy``: cross-entropy and accuracy on a fixed, unaugmented part of the training images
    in evaluation mode. Under augmentation, dropout or mixing the training's own are not comparable with validation.
    ``gap_loss``, ``gap_accuracy``: validation minus clean, and clean minus validation: what the network memorized.
    ``accumulated_decay``: Σηλ/(1−μ) so far, the run's length over τ: whether λ could act at all.
    ``decay_share``: ‖λw‖/‖∇loss‖ under SGD, a mean over looks every 100 steps. No verdict: where filters are
    scale-invariant it settles at 1/√(2τ in steps) whatever λ.
    ``effective_lr``: median over scale-invariant filters of η/((1−μ)·‖w‖²), how fast their direction turns.
    ``sparsity``: share of exact zeros among weights. ``norm/<layer>``: ‖w‖ of each.

    Args:
        audit: Knows which filters are scale-invariant.
        history: Has the rows that the last sentence is about.
    """

    def __init__(self, audit: ParameterReport, history: History) -> None:
        self._audit = audit
        self._history = history
        self._scores = EpochMetrics()
        self._accumulated = 0.0
        self._shares: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """The decay accumulated so far, and this epoch's looks at the gradients."""
        return {"accumulated": self._accumulated, "shares": list(self._shares)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self._accumulated = state_dict["accumulated"]
        self._shares = list(state_dict["shares"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has every real step counted with the η and λ it was taken with, before the schedulers move on."""
        trainer.optimizers[0].register_step_post_hook(self._count)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """When the gradients are the loss's alone, unscaled and unclipped."""
        assert isinstance(pl_module, ImageClassifier)
        if isinstance(optimizer, SGD) and (trainer.global_step % EVERY == 0 or not self._shares):
            self._shares.append(decay_share(optimizer))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """EpochMetrics the clean training images by the weights that are being validated, averaged ones included."""
        assert isinstance(pl_module, ImageClassifier)
        if not trainer.training and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._score_clean(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what there is to see in the weights."""
        assert isinstance(pl_module, ImageClassifier)
        metrics = _weight_metrics(pl_module)
        metrics |= _effective_lr(pl_module, trainer.optimizers[0], self._audit.invariant)
        if self._shares:
            metrics["decay_share"] = torch.stack(self._shares).nanmean()
            self._shares.clear()
        seen = trainer.callback_metrics
        if "clean_loss" in seen and "val_loss" in seen:
            metrics["gap_loss"] = seen["val_loss"] - seen["clean_loss"]
            metrics["gap_accuracy"] = seen["clean_accuracy"] - seen["val_accuracy"]
        pl_module.log_dict({**metrics, "accumulated_decay": self._accumulated})

    def summary(self, classes: int) -> str:
        """What λ did in this run, with its figures."""
        return describe_effect(self._history.rows, classes)

    def _count(self, optimizer: Optimizer, *_: Any) -> None:
        self._accumulated += decay_per_step(optimizer, optimizer.param_groups[0]) or 0.0

    def _score_clean(self, trainer: Trainer, classifier: ImageClassifier) -> None:
        for batch in trainer.datamodule.clean_dataloader():  # type: ignore[attr-defined]
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            with trainer.precision_plugin.forward_context():
                classifier.evaluate_batch(batch, self._scores)
        means = self._scores.compute(trainer)
        classifier.log_dict({f"clean_{name}": value for name, value in means.items()})


def describe_effect(rows: list[dict[str, float]], classes: int) -> str:
    """One sentence on λ from the history's rows; *likely*, because only the λ = 0 arm of a sweep could tell for sure.

    λ can hardly act in a run shorter than τ (accumulated decay below 1). It is likely too strong when it could act
    and the clean training images are fitted worse than before, or hardly better than by guessing.
    """
    row = rows[-1]
    decay, clean, loss = row["accumulated_decay"], row["clean_accuracy"], row["clean_loss"]
    fit = f"clean training accuracy {clean:.1%}, gap {row['gap_accuracy']:+.1%}"
    zeros = f", {row['sparsity']:.1%} of the weights zero" if row["sparsity"] else ""
    if decay == 0:
        return f"weight decay was off or has no timescale here ({fit}{zeros})"
    said = f"the run was {decay:.2g} τ long, {fit}{zeros}"
    if decay < 1:
        return f"λ hardly acted: {said}"
    worse = clean < max(row.get("clean_accuracy", 0.0) for row in rows) - 0.05
    if worse or loss > 0.8 * math.log(classes):
        return f"λ is likely too strong, the network no longer fits its training data: {said}"
    return f"λ acted: {said}"


def decay_share(optimizer: SGD) -> Tensor:
    """‖λw‖/‖∇loss‖ over all parameters; a decoupled λ is counted as the coupled one of the same timescale."""
    decays, gradients = [], []
    for group in optimizer.param_groups:
        moving = [w for w in group["params"] if w.grad is not None]
        if moving:
            norms = torch.stack(list(torch._foreach_norm([w.detach() for w in moving])))
            gain = momentum_gain(group) if is_decoupled(optimizer, group) else 1.0
            decays.append((group["weight_decay"] / gain * norms).square().sum())
            gradients.append(torch.stack(list(torch._foreach_norm([w.grad for w in moving]))).square().sum())
    return (torch.stack(decays).sum() / torch.stack(gradients).sum()).sqrt()


def _weight_metrics(classifier: ImageClassifier) -> dict[str, Tensor]:
    named = classifier.network.named_parameters()
    kernels = {name: w.detach() for name, w in named if w.ndim > 1 and w.requires_grad}
    zeros = torch.stack([(w == 0).sum() for w in kernels.values()]).sum()
    norms = torch._foreach_norm(list(kernels.values()))
    by_layer = {f"norm/{name.removesuffix('.weight')}": norm for name, norm in zip(kernels, norms, strict=True)}
    return {"sparsity": zeros / sum(w.numel() for w in kernels.values()), **by_layer}


def _effective_lr(classifier: ImageClassifier, optimizer: Optimizer, invariant: dict[str, Tensor]) -> dict[str, Tensor]:
    named = dict(classifier.network.named_parameters())
    squares = [filters(named[name].detach()).square().sum(dim=1)[mask] for name, mask in invariant.items()]
    group = optimizer.param_groups[0]
    if "dampening" not in group or not any(len(part) for part in squares):
        return {}
    return {"effective_lr": (group["lr"] * momentum_gain(group) / torch.cat(squares)).median()}
