"""Measures how much of the gain of weight decay is due to the effective learning rate of scale-invariant filters.

Run with ``python -m tests.benchmarks.mechanism --json mechanism.json``. With each seed, ``configs/fast_sgd.yaml`` is
trained in five arms: weight decay, none, weight decay of the scale-invariant filters alone or of everything else alone,
and a control without weight decay, in which each scale-invariant filter is rescaled after every step to the norm that
it had in the run with weight decay. The control has the effective learning rate η/‖w‖² of that run, and no decay.

The share of the gain that an arm brings is (arm − none)/(weight decay − none), with Fieller's interval.
"""

import argparse
import json
import math
import multiprocessing
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from regularization.optim.penalties import filters
from regularization.study import results
from regularization.training.command import run_fit
from tests.benchmarks.speed.settings import config

DECAY = "1.33e-3"
CONTROL = "norms of the run with weight decay"
# The network's filters in front of batch norm, and all other parameters that are trained.
INVARIANT, OTHERS = '["stages.*.layers.0.weight", "stages.*.layers.4.weight"]', '["head.*", "*.bias"]'
ARMS: dict[str, list[str]] = {
    "weight decay": ["--model.optimizer.weight_decay", DECAY],
    "none": ["--model.optimizer.weight_decay", "0"],
    CONTROL: ["--model.optimizer.weight_decay", "0"],
    "invariant filters alone": [],
    "all others alone": [],
}


class RecordNorms(Callback):
    """Keeps the norm of each scale-invariant filter after every step."""

    def __init__(self) -> None:
        self.norms: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """After the optimizer's step."""
        self.norms.append([filters(w.detach()).norm(dim=1) for w in invariant(pl_module)])


class MatchNorms(Callback):
    """Rescales each scale-invariant filter after every step to a recorded norm.

    Args:
        norms: The norms that ``RecordNorms`` has recorded.
    """

    def __init__(self, norms: list[list[Tensor]]) -> None:
        self._norms = norms

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """After the optimizer's step."""
        for w, norm in zip(invariant(pl_module), self._norms[trainer.global_step - 1], strict=True):
            w.mul_((norm / filters(w).norm(dim=1)).view(-1, 1, 1, 1))


def invariant(module: LightningModule) -> list[Tensor]:
    """The weights whose filters are scale-invariant: those of all convolutions that are trained."""
    network: Any = module.network
    return [w for w in network.stages.parameters() if w.ndim == 4]


def train_seed(seed: int, options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The results of all arms with one seed."""
    torch.set_num_threads(1)
    recorded = RecordNorms()
    rows = []
    for arm, args in ARMS.items():
        if arm in ("invariant filters alone", "all others alone"):
            args = _penalty(INVARIANT if arm.startswith("invariant") else OTHERS)
        callbacks: dict[str, Callback] = {"weight decay": recorded, CONTROL: MatchNorms(recorded.norms)}
        with TemporaryDirectory() as folder:
            words = [*config("fast_sgd"), "--test", "null", "--seed_everything", str(seed), *args, *options]
            run_fit(
                [*words, "--data.split_seed", str(seed)], Path(folder), [callbacks[arm]] if arm in callbacks else []
            )
            result = results.read(Path(folder))
        assert result is not None
        norms = {name: value for name, value in result.row.items() if name.startswith("norm/")}
        kept = {name: result.row[name] for name in ("val_accuracy", "val_loss", "clean_accuracy", "effective_lr")}
        rows.append({"seed": seed, "arm": arm, **kept, **norms})
    return rows


def _penalty(parameters: str) -> list[str]:
    name = "--model.penalties.l2"
    return [
        "--model.optimizer.weight_decay", "0", name, "regularization.L2", f"{name}.strength", DECAY,
        f"{name}.parameters", parameters,
    ]  # fmt: skip


def share(arm: NDArray[np.float64], whole: NDArray[np.float64], level: float = 0.95) -> tuple[float, float, float]:
    """The ratio of two means over seeds, with Fieller's interval (Fieller 1954, JRSS B 16).

    Args:
        arm: Gain of the arm with each seed, ``(seeds,)``.
        whole: Gain of weight decay with each seed, ``(seeds,)``.
        level: Coverage.

    Returns:
        The ratio, the lower and the upper end; infinite ends where the mean of ``whole`` could be 0.
    """
    count = len(arm)
    t = float(stats.t.ppf((1 + level) / 2, count - 1))
    (var_a, cov), (_, var_w) = np.cov(arm, whole) / count
    a, w = float(arm.mean()), float(whole.mean())
    g = t**2 * var_w / w**2
    if g >= 1:
        return a / w, -math.inf, math.inf
    centre = a * w - t**2 * cov
    root = math.sqrt(centre**2 - (w**2 - t**2 * var_w) * (a**2 - t**2 * var_a))
    denominator = w**2 - t**2 * var_w
    return a / w, (centre - root) / denominator, (centre + root) / denominator


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """A line per arm: its mean accuracy, its gain, and its share of the gain of weight decay."""
    table = {arm: np.array([100 * row["val_accuracy"] for row in rows if row["arm"] == arm]) for arm in ARMS}
    whole = table["weight decay"] - table["none"]
    lines = []
    for arm, values in table.items():
        gain = values - table["none"]
        ratio, low, high = share(gain, whole) if arm not in ("none", "weight decay") else (math.nan,) * 3
        lines.append(
            f"{arm:36} {values.mean():6.2f}%  gain {gain.mean():+.2f} ± {gain.std(ddof=1) / len(gain) ** 0.5:.2f}"
            f"  share {ratio:.0%} ({low:.0%} to {high:.0%})"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="seeds at a time")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the results are written")
    args, options = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for found in pool.imap(partial(train_seed, options=options), range(args.seeds)):
            rows += found
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(describe(rows))


if __name__ == "__main__":
    main()
