"""The parameter report: which regularization acts on which parameters, and warnings about likely mistakes."""

import warnings
from dataclasses import dataclass
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import SGD

from regularization.callbacks.history import MAX_WIDTH
from regularization.data.sampling import Batch
from regularization.models.classifier import ImageClassifier
from regularization.models.outputs import split_output
from regularization.optim.invariance import Invariance, scale_invariant
from regularization.optim.penalties import L2, GroupLasso, MaxNorm
from regularization.optim.weight_decay import parameter_kind

# The number of training images that scale invariance is measured on, and the minimum number.
SAMPLE, SMALLEST_SAMPLE = 64, 16
# Kinds of parameters that have another name in the table.
KINDS = {"scales": "norm scales"}
INVARIANT = "scale-invariant: a norm layer follows, so the size does not change the output"
WEIGHTS_ONLY = "--model.decay weights excludes biases and norm scales from weight decay"


@dataclass(frozen=True)
class ReportRow:
    """Parameters of one kind with the same regularization.

    Attributes:
        kind: ``weights``, ``scales`` or ``biases``.
        names: The names of the parameters.
        elements: How many elements they have in total.
        invariant: The fraction of the elements that are part of something scale-invariant, by its level: single
            ``filters``, ``groups`` of filters, or whole ``layers``; see ``Invariance``. None if it was not measured.
        decay: The weight decay λ of the optimizer.
        tau: τ in epochs at the highest learning rate; infinite without weight decay, None for an optimizer without a
            formula.
        penalties: The names of the penalties.
    """

    kind: str
    names: list[str]
    elements: int
    invariant: dict[str, float] | None
    decay: float
    tau: float | None
    penalties: list[str]


class ParameterReport(Callback):
    """Prints the table and the warnings when training starts.

    Attributes:
        rows: The rows of the table.
        invariant: The scale-invariant parts of each parameter, by the name of the parameter.
    """

    def __init__(self) -> None:
        self.rows: list[ReportRow] = []
        self.invariant: dict[str, Invariance] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures scale invariance on the first training images, prints and warns."""
        assert isinstance(pl_module, ImageClassifier)
        self.invariant = _measure_invariance(trainer, pl_module)
        self.rows = report_rows(trainer, pl_module, self.invariant)
        if trainer.is_global_zero:
            Console(width=MAX_WIDTH, highlight=False).print(table(self.rows, pl_module))
            for warning in misuse_warnings(self.rows, pl_module):
                warnings.warn(warning, stacklevel=1)


def report_rows(trainer: Trainer, classifier: ImageClassifier, invariant: dict[str, Invariance]) -> list[ReportRow]:
    """Groups the trained parameters by optimizer group, kind, and the penalties on them."""
    optimizer = trainer.optimizers[0]
    group_of = {id(w): index for index, group in enumerate(optimizer.param_groups) for w in group["params"]}
    grouped: dict[tuple[Any, ...], dict[str, nn.Parameter]] = {}
    for name, w in classifier.network.named_parameters():
        if id(w) in group_of:
            penalties = [key for key, selected in classifier.regularizer.selected.items() if name in selected]
            grouped.setdefault((group_of[id(w)], parameter_kind(name, w), *penalties), {})[name] = w
    rows = []
    for (index, kind, *penalties), members in grouped.items():
        decay, tau = classifier.optimization.base_weight_decay(index), classifier.optimization.tau(optimizer, index)
        elements = sum(w.numel() for w in members.values())
        rows.append(ReportRow(kind, list(members), elements, _fractions(members, invariant), decay, tau, penalties))
    return rows


def _fractions(members: dict[str, nn.Parameter], invariant: dict[str, Invariance]) -> dict[str, float] | None:
    """The fraction of the elements of ``members`` that is scale-invariant, by level; only levels that occur."""
    if not members.keys() & invariant.keys():
        return None
    elements = dict.fromkeys(("filters", "groups", "layers"), 0.0)
    for name in members.keys() & invariant.keys():
        elements[invariant[name].level] += invariant[name].fraction * members[name].numel()
    total = sum(w.numel() for w in members.values())
    return {level: number / total for level, number in elements.items() if number}


def table(rows: list[ReportRow], classifier: ImageClassifier) -> Table:
    """The rows as a table for rich."""
    result = Table(title="what acts on the parameters", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    result.add_column("kind", no_wrap=True)
    for column in ("tensors", "elements", "scale-\ninvariant", "weight\ndecay λ", "timescale\nτ, epochs"):
        is_text = column.startswith("scale")
        result.add_column(column, justify="right", min_width=9 if is_text else None, no_wrap=not is_text)
    # Several penalties, and long names, take several lines: the table is no wider than a terminal.
    result.add_column("penalties", overflow="fold")
    for row in rows:
        tau = "–" if row.tau is None or row.tau == float("inf") else f"{row.tau:.3g}"
        penalties = "\n".join(_describe_penalty(name, classifier) for name in row.penalties) or "–"
        parts = [f"{fraction:.0%} {level}" for level, fraction in (row.invariant or {}).items()]
        invariant = "–" if row.invariant is None else ", ".join(parts) or "0%"
        decay = f"{row.decay:.3g}" if row.decay else "–"
        result.add_row(
            KINDS.get(row.kind, row.kind), str(len(row.names)), f"{row.elements:,}", invariant, decay, tau, penalties
        )
    notes = [INVARIANT] if any(row.invariant for row in rows) else []
    notes += [WEIGHTS_ONLY] if {row.kind for row in rows if row.decay} > {"weights"} else []
    if notes:
        result.caption, result.caption_justify, result.caption_style = "\n".join([*notes, ""]), "left", ""
    return result


def misuse_warnings(rows: list[ReportRow], classifier: ImageClassifier) -> list[str]:
    """Warnings about settings that were likely not intended, one sentence each.

    Args:
        rows: The rows of the report.
        classifier: The network, with its penalties.
    """
    messages = []
    penalties = classifier.regularizer.penalties
    if any(row.decay and isinstance(penalties[name], L2) for row in rows for name in row.penalties):
        messages.append("an L2 penalty and weight_decay act on the same parameters: their λ add up")
    for name, penalty in penalties.items():
        # A filter that is only invariant together with others does change the network when it shrinks alone.
        invariant = [(row.invariant or {}).get("filters", 0.0) for row in rows if name in row.penalties]
        if isinstance(penalty, GroupLasso) and any(fraction > 0.5 for fraction in invariant):
            messages.append(
                f"penalty {name}: most of its filters are scale-invariant, so shrinking them changes nothing and "
                "gives no zeros; penalize the scales of the normalization layers (parameters: scales) instead"
            )
    return messages


def _measure_invariance(trainer: Trainer, classifier: ImageClassifier) -> dict[str, Invariance]:
    """Measures the scale invariance of each parameter; returns an empty dict if there are too few images."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    # Not a training batch: the epoch of a resumed run may have few images left.
    batch: Batch = next(iter(data.clean_dataloader()))
    sample = Batch(batch.images[:SAMPLE], batch.labels[:SAMPLE], batch.indices[:SAMPLE], 1.0)
    images = trainer.strategy.batch_to_device(sample, dataloader_idx=0).images
    if len(images) < SMALLEST_SAMPLE:
        return {}
    return scale_invariant(
        classifier.network, images.to(classifier.dtype), lambda output: split_output(output, data.num_classes)[0]
    )


def _describe_penalty(name: str, classifier: ImageClassifier) -> str:
    penalty = classifier.regularizer.penalties[name]
    if isinstance(penalty, MaxNorm):
        return f"{name} ≤ {penalty.limit:g}"
    mode = "proximal" if penalty.proximal else "loss" if name in classifier.regularizer.functions else "gradient"
    if penalty.proximal and not isinstance(classifier.trainer.optimizers[0], SGD):
        mode += ", decoupled"
    return f"{name} {penalty.strength:g} ({mode})"
