"""What successive halving saves and misses: ``python -m tests.benchmarks.halving STUDY`` for a finished grid.

A run is determined by its seed, so the grid's own curves contain what a stopped trial would have reported. The search
is replayed on them in 20 random orders, each with one of the seeds for all arms.
"""

import random
import sys
from pathlib import Path

import numpy as np
import optuna

from regularization.study import found_runs, results
from regularization.study.results import Result
from regularization.study.samplers import halving

ORDERS = 20


def search(arms: list[Result]) -> tuple[str, int]:
    """The arm that the search would choose from these runs, in this order, and the steps it would take."""
    study = optuna.create_study(direction="maximize", pruner=halving(max(len(arm.rows) for arm in arms)))
    steps, complete = 0, {}
    for arm in arms:
        trial = study.ask()
        for row in arm.rows:
            if "val_accuracy" in row:
                trial.report(row["val_accuracy"], int(row["epoch"]) + 1)
                if row is not arm.rows[-1] and trial.should_prune():
                    break
        else:
            complete[arm.arm] = arm.accuracy
        steps += int(row["step"])
    return max(complete, key=lambda name: complete[name]), steps


def main(folder: Path) -> None:
    """Prints the share of the steps, and how often the choice lies within one standard error of the grid's best."""
    grid = results.by_arm(found_runs.find([folder / "final"]).results)
    names = list(grid)
    means = {name: float(np.mean([run.accuracy for run in grid[name]])) for name in names}
    best = [run.accuracy for run in grid[max(means, key=means.__getitem__)]]
    # The one-standard-error rule (Breiman et al. 1984, section 3.4.3).
    good = {name for name in names if means[name] >= np.mean(best) - np.std(best, ddof=1) / len(best) ** 0.5}
    chance = random.Random(0)
    shares, hits = [], []
    for _ in range(ORDERS):
        seed = chance.randrange(len(grid[names[0]]))
        arms = [grid[name][seed] for name in names]
        chance.shuffle(arms)
        chosen, steps = search(arms)
        shares.append(steps / sum(one.steps for one in arms))
        hits.append(chosen in good)
        print(f"seed {seed}: {chosen}, {shares[-1]:.0%} of the steps{'' if hits[-1] else ', missed'}")
    print(f"within one standard error of the grid's best: {', '.join(sorted(good))}")
    share = f"{np.mean(shares):.1%} of the grid's with one seed (most {max(shares):.0%})"
    print(f"steps: {share}; hits: {sum(hits)} of {ORDERS}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
