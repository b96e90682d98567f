"""Synthetic studies with known true effects: accuracies of all trials, and the results that the program would read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regularization.study.analysis.comparison import Sample
from regularization.study.config import Study
from regularization.study.results import Result

LAMBDA = "model.optimizer.weight_decay"
# Standard deviations on real CIFAR-10, as fractions: the noise within seeds, and the effects of seeds.
NOISE, SEED_EFFECT = 0.00246, 0.005


def draw_accuracies(
    effects: Sequence[float], seeds: int, generator: np.random.Generator, noise: float | Sequence[float] = NOISE
) -> NDArray[np.float64]:
    """Accuracies ``(arms, seeds)``: 0.8 plus effects of arms and seeds plus noise with a standard deviation per arm."""
    spread = np.broadcast_to(np.reshape(noise, (-1, 1)), (len(effects), 1))
    noises = spread * generator.standard_normal((len(effects), seeds))
    return np.asarray(0.8 + np.reshape(effects, (-1, 1)) + generator.normal(0, SEED_EFFECT, seeds) + noises)


def sample_of(table: NDArray[np.float64]) -> Sample:
    """The sample of a table ``(arms, seeds)``, in which NaN marks missing trials."""
    arms, seeds = np.nonzero(np.isfinite(table))
    return Sample(table[arms, seeds], arms.astype(np.int64), seeds.astype(np.int64))


def make_results(arm: str, accuracies: Sequence[float], **options: Any) -> list[Result]:
    """The results of one arm, one per seed; ``metrics`` are added to all of its rows."""
    metrics = options.pop("metrics", {})
    results = []
    for seed, accuracy in enumerate(accuracies):
        row = {"epoch": 9.0, "step": 100.0, "val_accuracy": accuracy, "clean_accuracy": 0.9, "seconds": 60.0, **metrics}
        fields: dict[str, Any] = {
            "group": arm,
            "values": {},
            "stage": "final",
            "folder": Path("absent"),
            "weight_decay": 0.0,
            "timescale": None,
        }
        fields |= {"test_accuracy": None, "pruned": False, "unregularized": arm in ("none", "λ=0"), **options}
        results.append(
            Result(
                arm=arm,
                seed=seed,
                accuracy=accuracy,
                row=row,
                rows=[{**row, "epoch": row["epoch"] - 1, "seconds": 0.0}, row],
                **fields,
            )
        )
    return results


def results_on_axis(gains: Sequence[float], seeds: int = 3, noise: float = 0.001) -> tuple[list[Result], Study]:
    """One arm per gain in points, the first with λ = 0; the noise of all arms and seeds is of the same size."""
    values = [0, *(10.0 ** -(len(gains) - index) for index in range(1, len(gains)))]
    table = draw_accuracies([gain / 100 for gain in gains], seeds, np.random.default_rng(0), noise).tolist()
    results = [
        result
        for value, accuracies in zip(values, table, strict=True)
        for result in make_results(f"λ={value:g}", accuracies, values={LAMBDA: value})
    ]
    return results, Study(base="x", vary={LAMBDA: values})
