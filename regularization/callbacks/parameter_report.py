"""The audit: at the start of a run, what acts on which parameters and how strongly; with warnings where λ misleads."""

import warnings
from dataclasses import dataclass
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.optim import SGD

from regularization.data.sampling import Batch
from regularization.models.classifier import ImageClassifier
from regularization.optim.invariance import scale_invariant
from regularization.optim.penalties import L2, GroupLasso, MaxNorm
from regularization.optim.weight_decay import parameter_kind

SAMPLE = 64


@dataclass(frozen=True)
class ReportRow:
    """Parameters of one kind that the same things act on.

    Attributes:
        kind: weights, scales or biases.
        names: The parameters.
        numbers: How many numbers they are.
        invariant: Share of the numbers that lie in scale-invariant filters.
        decay: The optimizer's λ.
        tau: τ in epochs at the highest learning rate; None where there is no formula, infinite without decay.
        penalties: Names of the penalties.
    """

    kind: str
    names: list[str]
    numbers: int
    invariant: float
    decay: float
    tau: float | None
    penalties: list[str]


class ParameterReport(Callback):
    """Prints the table when training starts.

    Attributes:
        lines: The table's lines.
        invariant: Which filters are scale-invariant, by parameter.
    """

    def __init__(self) -> None:
        self.rows: list[ReportRow] = []
        self.invariant: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures on the first training images, prints, warns."""
        assert isinstance(pl_module, ImageClassifier)
        self.invariant = _measure(trainer, pl_module)
        self.rows = report_rows(trainer, pl_module, self.invariant)
        if trainer.is_global_zero:
            Console(width=110, highlight=False).print(table(self.rows, pl_module))
            for warning in warnings_of(
                self.rows, pl_module, pl_module.optimization.planned_decay(trainer.optimizers[0])
            ):
                warnings.warn(warning, stacklevel=1)


def report_rows(trainer: Trainer, classifier: ImageClassifier, invariant: dict[str, Tensor]) -> list[ReportRow]:
    """The lines: parameters gathered by optimizer group, kind, and the penalties on them."""
    optimizer = trainer.optimizers[0]
    group_of = {id(w): place for place, group in enumerate(optimizer.param_groups) for w in group["params"]}
    gathered: dict[tuple[Any, ...], dict[str, nn.Parameter]] = {}
    for name, w in classifier.network.named_parameters():
        if id(w) in group_of:
            acting = [key for key, chosen in classifier.regularizer.selected.items() if name in chosen]
            gathered.setdefault((group_of[id(w)], parameter_kind(name, w), *acting), {})[name] = w
    lines = []
    for (place, what, *acting), members in gathered.items():
        decay, tau = classifier.optimization.base_weight_decay(place), classifier.optimization.tau(optimizer, place)
        numbers = sum(w.numel() for w in members.values())
        unscaled = sum(invariant[n].float().mean().item() * w.numel() for n, w in members.items() if n in invariant)
        lines.append(ReportRow(what, list(members), numbers, unscaled / numbers, decay, tau, acting))
    return lines


def table(lines: list[ReportRow], classifier: ImageClassifier) -> Table:
    """The lines as rich prints them."""
    result = Table("parameters", title="what acts on the parameters", title_justify="left")
    for column in ("tensors", "numbers", "scale-invariant", "weight decay λ", "τ in epochs"):
        result.add_column(column, justify="right")
    result.add_column("penalties")
    for line in lines:
        tau = "–" if line.tau is None or line.tau == float("inf") else f"{line.tau:.3g}"
        said = ", ".join(_describe(name, classifier) for name in line.penalties) or "–"
        share = f"{line.invariant:.0%}" if line.kind == "weights" else "–"
        decay = f"{line.decay:g}" if line.decay else "–"
        result.add_row(line.kind, str(len(line.names)), f"{line.numbers:,}", share, decay, tau, said)
    return result


def warnings_of(lines: list[ReportRow], classifier: ImageClassifier, planned: float | None) -> list[str]:
    """What is likely not meant, one sentence each.

    Args:
        lines: The audit's.
        classifier: For its penalties.
        planned: Σηλ/(1−μ) over the whole run, that is its length over τ; None without a formula.
    """
    found = []
    if any(line.decay and line.kind != "weights" for line in lines):
        found.append("weight decay also acts on biases and the scales of norm layers; model.decay: weights spares them")
    penalties = classifier.regularizer.penalties
    if any(line.decay and isinstance(penalties[name], L2) for line in lines for name in line.penalties):
        found.append("an L2 penalty and weight_decay act on the same parameters: their λ add up")
    for name, penalty in penalties.items():
        shares = [line.invariant for line in lines if name in line.penalties and line.kind == "weights"]
        if isinstance(penalty, GroupLasso) and any(share > 0.5 for share in shares):
            found.append(
                f"penalty {name}: most of its filters are scale-invariant, shrinking them changes nothing and "
                "gives no zeros; penalize the norm layers' scales (parameters: scales) instead"
            )
    if planned is not None and 0 < planned < 1:
        found.append(f"the run is {planned:.2g} τ long: weight decay can hardly act in it")
    return found


def _measure(trainer: Trainer, classifier: ImageClassifier) -> dict[str, Tensor]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    # Not the training batches: in a run that is continued, few of the epoch's may be left.
    first: Batch = next(iter(data.clean_dataloader()))
    few = Batch(first.images[:SAMPLE], first.labels[:SAMPLE], first.indices[:SAMPLE], 1.0)
    images, labels, *_ = trainer.strategy.batch_to_device(few, dataloader_idx=0)
    return scale_invariant(classifier.network, images.to(classifier.dtype), labels) if len(labels) >= 8 else {}


def _describe(name: str, classifier: ImageClassifier) -> str:
    penalty = classifier.regularizer.penalties[name]
    if isinstance(penalty, MaxNorm):
        return f"{name} ≤ {penalty.limit:g}"
    how = "proximal" if penalty.proximal else "gradient"
    if penalty.proximal and not isinstance(classifier.trainer.optimizers[0], SGD):
        how += ", decoupled"
    return f"{name} {penalty.strength:g} ({how})"
