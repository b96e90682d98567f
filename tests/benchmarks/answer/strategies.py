"""Strategies: which run of a study is next, and when the study is over.

``ask`` returns the next run whenever a worker is free, and ``tell`` receives the accuracy when the run has ended. All
strategies are judged by the same analysis, which is that of ``sweep``; they differ in the runs that they pay for.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from regularization.study.analysis.allocation import next_trial
from regularization.study.analysis.comparison import Comparison, compare
from regularization.study.analysis.looks import fixed_alpha, next_look, scheduled_alpha
from regularization.study.analysis.verdicts import Answer, judge_study
from tests.benchmarks.answer.simulator import RESOLUTION, to_sample

# An arm and a seed, by their positions.
Cell = tuple[int, int]
# How often TPE may propose an arm that has no seed left before another arm is taken.
PATIENCE = 20


class Strategy:
    """The base class of all strategies; it requests no runs.

    Args:
        available: Whether the table has each run, ``(arms, seeds)``.
        start: Seeds of every arm before the first look.
        seed: For strategies that draw random numbers.
    """

    def __init__(self, available: NDArray[np.bool_], start: int, seed: int) -> None:
        self.available, self.start, self.seed = available, start, seed
        self.results = np.full(available.shape, np.nan)
        # A fixed design is judged once, at its end.
        self.alpha = fixed_alpha(0)
        # The level and the comparisons at it; None after a new result.
        self._comparisons: tuple[float, dict[int, Comparison]] | None = None

    def ask(self) -> Cell | None:
        """The next run; None if there is none, or none until another run has ended."""
        return None

    def tell(self, cell: Cell, accuracy: float) -> None:
        """Records a result."""
        self.results[cell] = accuracy
        self._comparisons = None

    def compare(self) -> dict[int, Comparison]:
        """Compares all arms that have results with the baseline."""
        if self._comparisons is None or self._comparisons[0] != self.alpha:
            self._comparisons = self.alpha, compare(to_sample(self.results), 0, self.alpha)
        return self._comparisons[1]

    def answer(self) -> Answer:
        """The answer so far; undecided as long as an arm has no result."""
        tried = np.isfinite(self.results).any(axis=1)
        if not tried[self.available.any(axis=1)].all():
            return Answer.UNDECIDED
        return judge_study(self.compare().values(), RESOLUTION)

    def cells(self) -> list[Cell]:
        """All available runs, seed by seed."""
        return [(int(arm), int(seed)) for seed, arm in np.argwhere(self.available.T)]


class Grid(Strategy):
    """All arms with all seeds."""

    def __init__(self, available: NDArray[np.bool_], start: int, seed: int) -> None:
        super().__init__(available, start, seed)
        self._waiting = self.cells()

    def ask(self) -> Cell | None:
        """The next run of the grid."""
        return self._waiting.pop(0) if self._waiting else None


class Sequential(Strategy):
    """A strategy that ends when the study is decided, at the looks of ``until: decided``."""

    def __init__(self, available: NDArray[np.bool_], start: int, seed: int) -> None:
        super().__init__(available, start, seed)
        self.alpha = scheduled_alpha(next_look(0))
        self._looks: list[int] = []
        self._judged: tuple[int, bool] = (0, False)

    def decided(self) -> bool:
        """Whether the results decide the study, at the level of the last look or of one that is due now."""
        finished = int(np.isfinite(self.results).sum())
        if self._judged[0] != finished:
            self._judged = finished, self._decides()
        return self._judged[1]

    def _decides(self) -> bool:
        if self._looks and self.answer() != Answer.UNDECIDED:
            return True
        seeds = int(np.isfinite(self.results[0]).sum())
        if not scheduled_alpha(seeds) or seeds in self._looks:
            return False
        self._looks.append(seeds)
        self.alpha = scheduled_alpha(seeds)
        return self.answer() != Answer.UNDECIDED


class GridUntilDecided(Sequential):
    """All arms with one seed after the other."""

    def __init__(self, available: NDArray[np.bool_], start: int, seed: int) -> None:
        super().__init__(available, start, seed)
        self._waiting = self.cells()

    def ask(self) -> Cell | None:
        """The next run of the grid."""
        return self._waiting.pop(0) if self._waiting and not self.decided() else None


class UntilDecided(Sequential):
    """``until: decided``: every arm with the first seeds, then the run that is likely to decide the study."""

    def __init__(self, available: NDArray[np.bool_], start: int, seed: int) -> None:
        super().__init__(available, start, seed)
        self._screen = [cell for cell in self.cells() if cell[1] < self.start]
        self._given = {arm: {seed for own, seed in self._screen if own == arm} for arm in range(len(self.available))}

    def ask(self) -> Cell | None:
        """The next run; one that the table does not have counts as a trial that failed, as in a study."""
        if self._screen:
            return self._screen.pop(0)
        while not self.decided():
            sample, seeds = to_sample(self.results), range(self.available.shape[1])
            choice = next_trial(sample, self._given, 0, seeds, self.alpha, RESOLUTION)
            if choice is None:
                return None
            self._given[choice[0]].add(choice[1])
            if self.available[choice]:
                return choice
        return None


def one_seed(available: NDArray[np.bool_], start: int, seed: int) -> Strategy:
    """``until: decided`` with one seed of every arm before the first look, regardless of the study's config."""
    return UntilDecided(available, 1, seed)


class TPE(Sequential):
    """Optuna's TPE over the arms, after one trial of each; the baseline is trained with every seed that an arm has.

    A trial is a run, with the arm's next seed. TPE itself has no baseline and no stopping rule: the study ends when the
    analysis decides it.
    """

    def __init__(self, available: NDArray[np.bool_], start: int, seed: int) -> None:
        super().__init__(available, start, seed)
        self._arms = len(self.available)
        sampler = optuna.samplers.TPESampler(seed=self.seed, n_startup_trials=self._arms, constant_liar=True)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for arm in range(self._arms):
            self._study.enqueue_trial({"arm": arm})
        self._open = {arm: np.flatnonzero(row).tolist() for arm, row in enumerate(self.available)}
        self._running: dict[Cell, optuna.Trial] = {}

    def ask(self) -> Cell | None:
        """The arm that TPE proposes."""
        if self.decided() or not any(self._open.values()):
            return None
        for _ in range(PATIENCE):
            trial = self._study.ask()
            arm = trial.suggest_int("arm", 0, self._arms - 1)
            if self._open[arm]:
                break
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            arm = next(arm for arm, seeds in self._open.items() if seeds)
            self._study.enqueue_trial({"arm": arm})
            trial = self._study.ask()
            trial.suggest_int("arm", 0, self._arms - 1)
        seed = self._open[arm].pop(0)
        if seed in self._open[0]:
            self._study.enqueue_trial({"arm": 0})
        self._running[arm, seed] = trial
        return arm, seed

    def tell(self, cell: Cell, accuracy: float) -> None:
        """Tells TPE the accuracy."""
        super().tell(cell, accuracy)
        self._study.tell(self._running.pop(cell), accuracy)


@dataclass
class _ArmTrial:
    """A trial of Optuna that trains one arm with one seed after the other."""

    trial: optuna.Trial
    arm: int
    seeds: list[int]
    values: list[float] = field(default_factory=list)


class Pruned(Strategy):
    """A trial per arm whose steps are seeds, ended by a pruner of Optuna; the baseline first, then the others.

    Args:
        available, start, seed: As for ``Strategy``.
        pruner: The pruner.
        instances: Whether a step reports the accuracy of its seed, for ``WilcoxonPruner``, or the mean so far.
    """

    def __init__(
        self, available: NDArray[np.bool_], start: int, seed: int, pruner: optuna.pruners.BasePruner, instances: bool
    ) -> None:
        super().__init__(available, start, seed)
        self._instances = instances
        others = 1 + np.random.default_rng(self.seed).permutation(len(self.available) - 1)
        self._waiting = [0, *others.tolist()]
        # HyperbandPruner's brackets depend on the study's name.
        self._study = optuna.create_study(direction="maximize", pruner=pruner, study_name=str(self.seed))
        self._idle: list[_ArmTrial] = []
        self._running: dict[Cell, _ArmTrial] = {}

    def ask(self) -> Cell | None:
        """The next seed of an arm that was not pruned, or the first one of the next arm."""
        if self._idle:
            current = self._idle.pop(0)
        elif self._waiting:
            current = self._begin(self._waiting.pop(0))
        else:
            return None
        cell = current.arm, current.seeds.pop(0)
        self._running[cell] = current
        return cell

    def _begin(self, arm: int) -> _ArmTrial:
        self._study.enqueue_trial({"arm": arm})
        trial = self._study.ask()
        trial.suggest_int("arm", 0, len(self.available) - 1)
        return _ArmTrial(trial, arm, np.flatnonzero(self.available[arm]).tolist())

    def tell(self, cell: Cell, accuracy: float) -> None:
        """Reports the accuracy and asks the pruner whether the arm goes on."""
        super().tell(cell, accuracy)
        current = self._running.pop(cell)
        current.values.append(accuracy)
        mean = float(np.mean(current.values))
        current.trial.report(accuracy if self._instances else mean, cell[1] if self._instances else len(current.values))
        pruned = current.trial.should_prune()
        if not pruned and current.seeds:
            self._idle.append(current)
        elif pruned and not self._instances:
            self._study.tell(current.trial, state=TrialState.PRUNED)
        else:  # By WilcoxonPruner's documentation, a pruned trial returns the mean so far.
            self._study.tell(current.trial, mean)


def hyperband(available: NDArray[np.bool_], start: int, seed: int) -> Strategy:
    """Hyperband with seeds as its resource: tables have no accuracies of single epochs."""
    pruner = optuna.pruners.HyperbandPruner(1, max(2, available.shape[1]), 3)
    return Pruned(available, start, seed, pruner, instances=False)


def wilcoxon(available: NDArray[np.bool_], start: int, seed: int) -> Strategy:
    """WilcoxonPruner with its defaults and seeds as its instances."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner()
    return Pruned(available, start, seed, pruner, instances=True)


STRATEGIES: dict[str, Callable[[NDArray[np.bool_], int, int], Strategy]] = {
    "until: decided": UntilDecided,
    "until: decided, seeds: 1": one_seed,
    "grid": Grid,
    "grid, until decided": GridUntilDecided,
    "TPE": TPE,
    "Hyperband": hyperband,
    "WilcoxonPruner": wilcoxon,
}
