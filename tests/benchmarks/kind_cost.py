"""What each overlay of ``configs/with`` costs: the time of an epoch as a ratio to that of the same run without it.

Run on a quiet machine with `CIFAR10_ROOT=… python -m tests.benchmarks.kind_cost [OVERLAY …]`. Each overlay trains a
narrow network on CIFAR-10 for some short epochs, alternating with plain runs; the first epoch of each run is left out.
Prints a table in Markdown: the median over rounds of the ratio to the plain runs before and after, and its range.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from regularization import fit

WITH = Path(__file__).parents[2] / "configs" / "with"
# These overlays need other devices or files, or change the length of a run.
LEFT_OUT = ("ddp", "gpu", "finetune", "early_stopping")
STEPS, EPOCHS = 20, 3


def seconds_per_step(overlay: str | None, folder: Path) -> float:
    """The median time of a step, in the epochs after the first one."""
    configs = ["cifar10", *([str(WITH / f"{overlay}.yaml")] if overlay else [])]
    # The last layers of augmentations and averages act in each epoch; nothing is validated.
    run = fit(
        configs,
        trainer__max_epochs=EPOCHS,
        trainer__limit_train_batches=STEPS,
        trainer__limit_val_batches=0,
        trainer__default_root_dir=str(folder),
        trainer__enable_progress_bar=False,
        model__network__width=16,
        data__batch_size=64,
    )
    return statistics.median(row["seconds"] for row in run.rows[1:]) / STEPS


def measure(overlays: list[str], rounds: int, folder: Path) -> dict[str, list[float]]:
    """The ratios of each overlay to the mean of the plain runs before and after it, one for each round."""
    ratios: dict[str, list[float]] = {overlay: [] for overlay in overlays}
    before = seconds_per_step(None, folder)
    for _ in range(rounds):
        for overlay in overlays:
            own = seconds_per_step(overlay, folder)
            after = seconds_per_step(None, folder)
            ratios[overlay].append(2 * own / (before + after))
            before = after
    return ratios


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = sorted(path.stem for path in WITH.glob("*.yaml") if path.stem not in LEFT_OUT)
    parser.add_argument("overlays", nargs="*", default=every, metavar="OVERLAY")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ratios = measure(options.overlays, options.rounds, Path(folder))
    print("| overlay | time of a step, ratio to the same run without it | range |\n| --- | --- | --- |")
    for overlay, values in ratios.items():
        print(f"| `{overlay}` | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


if __name__ == "__main__":
    main()
