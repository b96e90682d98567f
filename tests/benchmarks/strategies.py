"""Optuna's samplers and pruners on the same simulated studies as ``tests.benchmarks.answer``.

They look for the best arm and make no claim: what is shown is the true gain of the arm that they end with, the share of
studies in which it is within 0.15 points of the best one, and the number of trials.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray

Draw = Callable[[Sequence[float], int, np.random.Generator], NDArray[np.float64]]
Strategy = Callable[[Draw, Sequence[float], int], dict[str, float]]
# As many as ``until: decided`` takes of a grid of 7 arms with 10 seeds.
BUDGET, SEEDS = 25, 25
CLOSE = 0.15


def _tpe(full: NDArray[np.float64], seed: int) -> tuple[int, int]:
    """TPE over the arms; every trial has a seed of its own."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    arms = list(range(len(full)))
    study.optimize(lambda trial: full[trial.suggest_categorical("arm", arms), trial.number], n_trials=BUDGET)
    return int(_best_mean(study)), BUDGET


def _pruned(full: NDArray[np.float64], seed: int, pruner: optuna.pruners.BasePruner, mean: bool) -> tuple[int, int]:
    """One trial per arm, whose steps are seeds; the pruner ends the worse ones."""
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.BruteForceSampler(seed=seed), pruner=pruner
    )
    used = 0
    scores: dict[int, tuple[int, float]] = {}

    def objective(trial: optuna.Trial) -> float:
        nonlocal used
        arm = trial.suggest_int("arm", 0, len(full) - 1)
        for step in range(10):
            used += 1
            scores[arm] = (step + 1, float(full[arm, : step + 1].mean()))
            trial.report(scores[arm][1] if mean else float(full[arm, step]), step + 1)
            if trial.should_prune():
                raise optuna.TrialPruned
        return scores[arm][1]

    study.optimize(objective, n_trials=len(full))
    return max(scores, key=lambda arm: scores[arm]), used


def _best_mean(study: optuna.Study) -> int:
    """The arm with the highest mean over its trials, of those with at least two."""
    values: dict[int, list[float]] = {}
    for trial in study.trials:
        values.setdefault(trial.params["arm"], []).append(trial.value or 0.0)
    repeated = {arm: own for arm, own in values.items() if len(own) > 1} or values
    return max(repeated, key=lambda arm: float(np.mean(repeated[arm])))


def _summary(play: Callable[[NDArray[np.float64], int], tuple[int, int]]) -> Strategy:
    def run(draw: Draw, gains: Sequence[float], studies: int) -> dict[str, float]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        generator = np.random.default_rng(2)
        ends = [play(draw(gains, SEEDS, generator), seed) for seed in range(studies)]
        chosen = np.array([gains[arm] for arm, _ in ends])
        close = float(np.mean(chosen >= max(gains) - CLOSE))
        used = float(np.median([trials for _, trials in ends]))
        return {"true gain of the choice": float(chosen.mean()), "close to the best": close, "median trials": used}

    return run


STRATEGIES: dict[str, Strategy] = {
    "TPE": _summary(_tpe),
    "Hyperband": _summary(lambda full, seed: _pruned(full, seed, optuna.pruners.HyperbandPruner(1, 10, 3), True)),
    "WilcoxonPruner": _summary(lambda full, seed: _pruned(full, seed, optuna.pruners.WilcoxonPruner(), False)),
}
