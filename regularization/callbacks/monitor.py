"""Monitor: measures once per epoch what λ may change, and reports it at the end of training."""

import math
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from regularization.callbacks.history import History, Row, wrap
from regularization.callbacks.parameter_report import ParameterReport
from regularization.models.classifier import ImageClassifier
from regularization.models.metrics import EpochMetrics
from regularization.optim.applied import Regularizer
from regularization.optim.invariance import Invariance
from regularization.optim.penalties import filters
from regularization.optim.references import L2SP
from regularization.optim.weight_decay import decay_per_step, is_decoupled, momentum_gain

INTERVAL = 100  # optimizer steps between two measurements of the gradients; there is at least one per epoch
CAVEAT = "one run does not show whether regularization helps: use sweep to compare runs"


class Monitor(Callback):
    """Logs these metrics in each epoch:

    ``clean_loss``, ``clean_accuracy``: cross-entropy and accuracy on a fixed, unaugmented part of the training images
    in evaluation mode. The training metrics can't be compared with those of the validation, because of augmentation,
    dropout and mixing.
    ``gap_loss``, ``gap_accuracy``: validation loss minus clean loss, and clean accuracy minus validation accuracy. They
    show how much the network has memorized.
    ``accumulated_decay``: Σηλ/(1−μ) so far, with the η and λ of each step. Weight decay alone would have multiplied the
    initial weights by exp(−accumulated_decay).
    ``decay_share``: ‖λw‖/‖∇loss‖ under SGD, the mean over measurements every 100 steps. It does not show whether λ is
    well chosen: if filters are scale-invariant, it settles at 1/√(2τ in steps) for any λ.
    ``effective_lr``: the median of η/((1−μ)·‖w‖²) over scale-invariant filters, how fast their direction changes.
    ``sparsity``: the fraction of the validated weights that are exactly zero. ``norm/<layer>``: ‖w‖ of each layer.

    Args:
        parameter_report: The report that has measured which filters are scale-invariant.
        history: The history, whose last row is reported at the end.
    """

    def __init__(self, parameter_report: ParameterReport, history: History) -> None:
        self._parameter_report = parameter_report
        self._history = history
        self._clean_metrics = EpochMetrics()
        self._accumulated = 0.0
        self._shares: list[Tensor] = []
        self._validated_sparsity: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """The decay accumulated so far, and the measurements of the gradients in this epoch."""
        return {"accumulated": self._accumulated, "shares": list(self._shares)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state."""
        self._accumulated = state_dict["accumulated"]
        self._shares = list(state_dict["shares"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Registers a hook that adds the decay of each actual optimizer step, before the schedulers change η and λ."""
        trainer.optimizers[0].register_step_post_hook(self._accumulate_decay)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measures ``decay_share`` while the gradients are those of the loss alone, unscaled and not clipped yet."""
        assert isinstance(pl_module, ImageClassifier)
        if isinstance(optimizer, SGD) and (trainer.global_step % INTERVAL == 0 or not self._shares):
            self._shares.append(decay_share(optimizer))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluates the clean training images with the weights that are validated, which may be averaged ones."""
        assert isinstance(pl_module, ImageClassifier)
        if not trainer.training and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._evaluate_clean(trainer, pl_module)
            weights = _weights(pl_module.network)
            self._validated_sparsity = _sparsity(weights) if weights else None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the metrics of the weights, and the gaps."""
        assert isinstance(pl_module, ImageClassifier)
        metrics = _weight_metrics(pl_module)
        if self._validated_sparsity is not None:
            # An average of weights has other zeros than the current ones.
            metrics |= {"sparsity": self._validated_sparsity}
            self._validated_sparsity = None
        metrics |= _effective_lr(pl_module, trainer.optimizers[0], self._parameter_report.invariant)
        if self._shares:
            metrics["decay_share"] = torch.stack(self._shares).nanmean()
            self._shares.clear()
        logged = trainer.callback_metrics
        if "clean_loss" in logged and "val_loss" in logged:
            metrics["gap_loss"] = logged["val_loss"] - logged["clean_loss"]
            metrics["gap_accuracy"] = logged["clean_accuracy"] - logged["val_accuracy"]
        pl_module.log_dict({**metrics, "accumulated_decay": self._accumulated})

    def summary(self, trainer: Trainer) -> str:
        """The measurements of the last epoch, see ``describe_run``, and what a single run cannot show."""
        classifier = trainer.lightning_module
        assert isinstance(classifier, ImageClassifier)
        description = describe_run(self._history.rows[-1], distances_from_start(classifier.regularizer))
        return f"{wrap(description)}\n{CAVEAT}"

    def _accumulate_decay(self, optimizer: Optimizer, *_: Any) -> None:
        self._accumulated += decay_per_step(optimizer, optimizer.param_groups[0]) or 0.0

    def _evaluate_clean(self, trainer: Trainer, classifier: ImageClassifier) -> None:
        for batch in trainer.datamodule.clean_dataloader():  # type: ignore[attr-defined]
            batch = trainer.precision_plugin.convert_input(batch)
            batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            with trainer.precision_plugin.forward_context():
                classifier.evaluate_batch(batch, self._clean_metrics)
        means = self._clean_metrics.compute(trainer)
        classifier.log_dict({f"clean_{name}": value for name, value in means.items()})


def describe_run(row: Row, distances: dict[str, float]) -> str:
    """The measurements of one epoch, in one line. A single run is not enough to judge λ by them.

    Args:
        row: The row of the epoch in the history, with the metrics of ``Monitor``.
        distances: See ``distances_from_start``.
    """
    gap = 100 * row["gap_accuracy"]
    above = f"{abs(gap):.1f} points {'above' if gap >= 0 else 'below'} the validation accuracy"
    parts = [f"accuracy on unaugmented training images {row['clean_accuracy']:.1%}", above]
    if row.get("sparsity"):
        parts.append(f"{row['sparsity']:.1%} of the weights are zero")
    if norms := [value for name, value in row.items() if name.startswith("norm/")]:
        parts.append(f"norm of the weights {math.hypot(*norms):.3g}")
    parts += [f"distance from w₀ {distance:.3g} ({name})" for name, distance in distances.items()]
    return ", ".join(parts)


def distances_from_start(regularizer: Regularizer) -> dict[str, float]:
    """‖w − w₀‖ of the weights that each ``L2SP`` penalty selects, by the name of the penalty."""
    penalties = {name: penalty for name, penalty in regularizer.penalties.items() if isinstance(penalty, L2SP)}
    weights = {name: [w.detach() for w in regularizer.selected[name].values()] for name in penalties}
    return {name: math.sqrt(2 * penalty.value(weights[name]).item()) for name, penalty in penalties.items()}


def decay_share(optimizer: SGD) -> Tensor:
    """‖λw‖/‖∇loss‖ over all parameters; a decoupled λ counts as the coupled one with the same timescale."""
    decays, gradients = [], []
    for group in optimizer.param_groups:
        trained = [w for w in group["params"] if w.grad is not None]
        if trained:
            norms = torch.stack(list(torch._foreach_norm([w.detach() for w in trained])))
            gain = momentum_gain(group) if is_decoupled(optimizer) else 1.0
            decays.append((group["weight_decay"] / gain * norms).square().sum())
            gradients.append(torch.stack(list(torch._foreach_norm([w.grad for w in trained]))).square().sum())
    if not gradients:
        # A step may have no gradients, for instance if it only updates the statistics of batch norm.
        return torch.tensor(math.nan, device=optimizer.param_groups[0]["params"][0].device)
    return (torch.stack(decays).sum() / torch.stack(gradients).sum()).sqrt()


def _weights(network: nn.Module) -> dict[str, Tensor]:
    """The trained parameters with two or more dimensions by name; pruned ones with their mask applied."""
    masks = {name: mask for name, mask in network.named_buffers() if name.endswith("_mask")}
    weights: dict[str, Tensor] = {}
    for name, w in network.named_parameters():
        if w.ndim > 1 and w.requires_grad:
            # torch.nn.utils.prune renames weight to weight_orig, and keeps its mask as weight_mask.
            bare = name.removesuffix("_orig")
            mask = masks.get(f"{bare}_mask")
            weights |= {name: w.detach()} if mask is None else {bare: w.detach() * mask}
    return weights


def _weight_metrics(classifier: ImageClassifier) -> dict[str, Tensor]:
    """``sparsity``, and ``norm/<layer>`` for each layer that is trained; empty if only biases and scales are."""
    weights = _weights(classifier.network)
    if not weights:
        return {}
    norms = torch._foreach_norm(list(weights.values()))
    by_layer = {f"norm/{name.removesuffix('.weight')}": norm for name, norm in zip(weights, norms, strict=True)}
    return {"sparsity": _sparsity(weights), **by_layer}


def _sparsity(weights: dict[str, Tensor]) -> Tensor:
    """The fraction of the weights that are exactly 0."""
    zeros = torch.stack([(w == 0).sum() for w in weights.values()]).sum()
    return zeros / sum(w.numel() for w in weights.values())


def _effective_lr(
    classifier: ImageClassifier, optimizer: Optimizer, invariant: dict[str, Invariance]
) -> dict[str, Tensor]:
    """``effective_lr``, if the optimizer is a kind of SGD and there are scale-invariant filters."""
    weights = _weights(classifier.network)
    squares = [filters(weights[name]).square().sum(dim=1)[it.filters] for name, it in invariant.items()]
    group = optimizer.param_groups[0]
    if "dampening" not in group or not any(len(part) for part in squares):
        return {}
    return {"effective_lr": (group["lr"] * momentum_gain(group) / torch.cat(squares)).median()}
