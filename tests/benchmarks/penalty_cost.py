"""The cost of regularization: training steps of the network of ``configs/seed.yaml``, alternating in one process.

Run on a quiet machine with `python -m tests.benchmarks.penalty_cost`. Prints the median over 30 alternating steps of
each variant, and its ratio, pair by pair, to plain weight decay.
"""

import statistics
import time
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from regularization import L1, L2, GroupLasso, ImageClassifier, Orthogonal, Penalty, ResNet
from regularization.callbacks.monitor import decay_share

STEPS = 30
WARM_UP = 3


class Variant:
    """The network of ``configs/seed.yaml`` with one way to regularize it."""

    def __init__(self, decay: float, watched: bool = False, **penalties: Penalty | None) -> None:
        torch.manual_seed(0)
        sgd = partial(torch.optim.SGD, lr=0.01, weight_decay=decay)
        self.classifier = ImageClassifier(ResNet(), sgd, penalties=penalties)
        self.optimizer = sgd(self.classifier.network.parameters())
        self.watched = watched

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Seconds of one training step."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        functional.cross_entropy(self.classifier(images), labels).backward()  # type: ignore[no-untyped-call]
        if self.watched:
            decay_share(self.optimizer)
        self.classifier.regularizer.add_gradients(0.0, 1.0)
        self.optimizer.step()
        self.classifier.regularizer.apply_prox(self.optimizer, 0.0, 1.0)
        return time.perf_counter() - start


def measure() -> dict[str, list[float]]:
    """Seconds of each step by variant."""
    variants = {
        "weight decay": Variant(1e-4),
        "L2 penalty": Variant(0.0, l2=L2(1e-4, "all")),
        "L1, proximal": Variant(0.0, l1=L1(1e-6)),
        "group lasso, proximal": Variant(0.0, group=GroupLasso(1e-6)),
        "orthogonal": Variant(0.0, orthogonal=Orthogonal(1e-6)),
        "weight decay, monitor looking": Variant(1e-4, watched=True),
    }
    images, labels = torch.randn(64, 3, 96, 96), torch.randint(0, 10, (64,))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for place in range(WARM_UP + STEPS):
        for name, variant in variants.items():
            taken = variant.step(images, labels)
            if place >= WARM_UP:
                seconds[name].append(taken)
    return seconds


def report(seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Median milliseconds, and the median ratio to weight decay in the same round."""
    base = seconds["weight decay"]
    return [
        {
            "variant": name,
            "ms": 1000 * statistics.median(taken),
            "ratio": statistics.median(ours / theirs for ours, theirs in zip(taken, base, strict=True)),
        }
        for name, taken in seconds.items()
    ]


if __name__ == "__main__":
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {STEPS} alternating steps of 64 images")
    for line in report(measure()):
        print(f"{line['variant']:32s} {line['ms']:8.1f} ms   × {line['ratio']:.3f}")
