"""Samplers of a study: TPE proposes arms, halving prunes trials, ``until: decided`` chooses arms and seeds."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler

from regularization.errors import UserError
from regularization.models.objective import Objective
from regularization.runs import directory
from regularization.study import results
from regularization.study.account import add_look, read_looks
from regularization.study.analysis.allocation import next_trial
from regularization.study.analysis.arms import compare_objective, sample_of
from regularization.study.analysis.comparison import ALPHA, Sample
from regularization.study.analysis.looks import next_look, scheduled_alpha
from regularization.study.analysis.verdicts import Answer, judge_study
from regularization.study.config import FAILED, Arm, Study, Trial, arm_from_values
from regularization.study.execution.queue import COORDINATOR, RUN, SEED, TrialQueue
from regularization.study.results import Result

# Seconds that a coordinator waits for the lock of the study's folder, which another one may hold.
PATIENCE = 600.0
# At a rung, the better third of the trials continues, to three times as many epochs.
REDUCTION = 3


def halving(epochs: int) -> SuccessiveHalvingPruner:
    """Asynchronous successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943).

    Rungs lie at one ninth (rounded up to whole epochs) and one third of the ``epochs`` of a trial. At a rung, a trial
    is pruned unless it is among the better third of the trials that have reached this rung so far.
    """
    # Rounded up, because Optuna would otherwise add a third rung shortly before the end.
    return SuccessiveHalvingPruner(min_resource=math.ceil(epochs / REDUCTION**2), reduction_factor=REDUCTION)


def proposal_range(study: Study) -> FloatDistribution:
    """From the smallest to the largest positive value that the study lists, on a log scale.

    Raises:
        UserError: When there are fewer than two of them.
    """
    assert study.axis is not None
    positive = {value for value in study.vary[study.axis] if value > 0}
    if len(positive) < 2:
        raise UserError(f"search tpe needs a range: two values above 0 at least for vary.{study.axis}")
    return FloatDistribution(min(positive), max(positive), log=True)


class ProposalQueue(TrialQueue):
    """A queue that, when it is empty, asks TPE (Bergstra et al. 2011) for another value, given the results so far.

    Args:
        args: As for ``TrialQueue``; the trials are those of the arms without regularization.
        study: The study, whose axis is searched.
        plan: Creates the trials of arms, one per seed.
        options: As for ``TrialQueue``.
    """

    def __init__(self, *args: Any, study: Study, plan: Callable[[Sequence[Arm]], list[Trial]], **options: Any) -> None:
        assert study.axis is not None
        self._option, self._wanted, self._plan = study.axis, study.proposals, plan
        self._space = proposal_range(study)
        self.arms: dict[str, Arm] = {}
        super().__init__(*args, **options)

    def parameters(self, trial: Trial) -> dict[str, float | int]:
        """As for ``TrialQueue``; only the seed for an arm without regularization, because a log scale has no 0."""
        return {SEED: trial.seed} if trial.arm.unregularized else super().parameters(trial)

    def distribution(self, option: str) -> FloatDistribution:
        """The range of values that TPE searches, the same for all trials."""
        return self._space

    def update(self) -> None:
        """Adds the arms that were proposed before, or by other coordinators."""
        for trial in self.get_trials(deepcopy=False):
            if self._option in trial.params and RUN in trial.user_attrs:
                self._add(trial.params[self._option])

    def _propose(self) -> optuna.Trial | None:
        """Proposes a value by TPE, seeded by the number of trials so that a resumed search draws other numbers."""
        if len(self.arms) >= self._wanted:
            return None
        self.sampler = TPESampler(seed=len(self.get_trials(deepcopy=False)), constant_liar=True, n_startup_trials=5)
        trial = optuna.Study.ask(self, {self._option: self._space, SEED: IntDistribution(0, 0)})
        before = len(self.arms)
        first = self._add(trial.params[self._option])[0]
        if len(self.arms) == before:  # a value that was proposed already
            self.tell(trial, state=optuna.trial.TrialState.FAIL)
            return self._propose()
        for name, value in {**self.attributes(first), COORDINATOR: self._coordinator}.items():
            trial.set_user_attr(name, value)
        return trial

    def _add(self, proposed: float) -> list[Trial]:
        value = min(max(float(f"{proposed:.3g}"), self._space.low), self._space.high)
        arm = arm_from_values({self._option: value})
        self.arms[arm.name] = arm
        trials = self._plan([arm])
        self.plan(trials)
        return trials


class DecidingQueue(TrialQueue):
    """A queue that, when it is empty, hands out the trial that is likely to decide the study (``until: decided``).

    A look is due whenever the baseline reaches a number of seeds in the schedule; between two looks, the level of the
    last one applies. Workers never wait for a look: a trial that is running at a look counts when it ends.

    Args:
        args: As for ``TrialQueue``; the trials are those that every arm starts with.
        study: The study.
        arms: The arms that are compared.
        baseline: Name of the arm that the others are compared with.
        plan: Creates the trials of the given arms with the given seeds.
        limits: The budget; when it is used up, the study ends undecided.
        options: As for ``TrialQueue``.
    """

    def __init__(
        self,
        *args: Any,
        study: Study,
        arms: Sequence[Arm],
        baseline: str,
        plan: Callable[[Sequence[Arm], Sequence[int]], list[Trial]],
        limits: "Limits",
        **options: Any,
    ) -> None:
        self._study, self._plan, self._limits, self._baseline = study, plan, limits, baseline
        self.arms = {arm.name: arm for arm in arms}
        self._results: dict[str, Result] = {}
        super().__init__(*args, **options)

    def update(self) -> None:
        """Adds the trials that were handed out before, or by other coordinators."""
        for trial in self.get_trials(deepcopy=False):
            key = trial.user_attrs.get(RUN)
            if key is None or key in self.planned:
                continue
            name, seed = trial.user_attrs["arm"], int(key.rpartition("seed_")[2])
            if name not in self.arms and self._study.refine and self._study.axis is not None:
                self.arms[name] = arm_from_values({self._study.axis: float(name.rpartition("=")[2])})
            if name in self.arms and seed in self._study.seed_list():
                self.plan(self._plan([self.arms[name]], [seed]))

    def decided(self) -> bool:
        """Whether the finished trials decide the study, at the level of the last look or of one that is due now."""
        finished = self._finished()
        looks = read_looks(self._folder)
        if looks and self._decided_at(looks[-1].alpha, finished):
            return True
        extended = add_look(self._folder, self._study, self._baseline, finished)
        return len(extended) > len(looks) and self._decided_at(extended[-1].alpha, finished)

    def _decided_at(self, alpha: float, finished: list[Result]) -> bool:
        names = list(self.arms)
        if self._baseline not in {result.arm for result in finished}:
            return False
        comparisons = compare_objective(self._sample(finished), names.index(self._baseline), alpha, self._study)
        # An arm without a result is not waited for if a trial of it failed.
        missing = set(names) - {result.arm for result in finished} - self._failed()
        candidates = self._candidates()
        compared = [item for index, item in comparisons.items() if names[index] in candidates]
        return not missing and judge_study(compared, self._study.resolution / 100) != Answer.UNDECIDED

    def _failed(self) -> set[str]:
        """The arms with a failed trial."""
        return {trial.arm.name for trial in self.planned.values() if (trial.folder / FAILED).is_file()}

    def _candidates(self) -> set[str]:
        """The arms on which the answer depends: those without failed trials, or all if each has one."""
        return set(self.arms) - self._failed() or set(self.arms)

    def unfinished(self) -> bool:
        """Whether trials are left to run: those running when the study was decided may have changed the answer."""
        with directory.exclusive_lock(self._folder, PATIENCE):
            return self._choice() is not None

    def _propose(self) -> optuna.Trial | None:
        choice = self._choice()
        if choice is None:
            return None
        self.plan(self._plan(*choice))
        return self._next()

    def _choice(self) -> tuple[list[Arm], list[int]] | None:
        """The arm and the seed of the trial that is likely to decide the study; None if the study has ended."""
        baseline_trials = [trial for trial in self.planned.values() if trial.arm.name == self._baseline]
        # If all trials of the baseline have failed, more trials cannot decide the study.
        without_baseline = all((trial.folder / FAILED).is_file() for trial in baseline_trials)
        if without_baseline or self.decided() or self._limits.reached(len(self.planned)):
            return None
        names = list(self.arms)
        looks = read_looks(self._folder)
        alpha = looks[-1].alpha if looks else scheduled_alpha(next_look(0))
        sample, baseline = self._sample(self._finished()), names.index(self._baseline)
        resolution = self._study.resolution / 100
        choice = next_trial(sample, self._given(), baseline, self._study.seed_list(), alpha, resolution)
        if choice is None:
            return None
        arm = self._refined(sample) or self.arms[names[choice[0]]]
        return [arm], [choice[1] if arm.name in names else self._study.first_seeds()[0]]

    def _given(self) -> dict[int, set[int]]:
        """The seeds that each arm has been given, for the baseline and the arms on which the answer depends."""
        names, candidates = list(self.arms), {*self._candidates(), self._baseline}
        given: dict[int, set[int]] = {index: set() for index, name in enumerate(names) if name in candidates}
        for trial in self.planned.values():
            if trial.arm.name in candidates:
                given[names.index(trial.arm.name)].add(trial.seed)
        return given

    def _refined(self, sample: Sample) -> Arm | None:
        """A new arm between the two best λ, if ``refine`` is set and no arm lies there yet; at most two in a study."""
        option = self._study.axis
        if not self._study.refine or option is None or len(self.arms) >= len(self._study.vary[option]) + 2:
            return None
        values = [float(arm.values[option]) for arm in self.arms.values()]
        if len(set(sample.arms.tolist())) < len(values):
            return None
        baseline = list(self.arms).index(self._baseline)
        # Compared within seeds, because arms have different seeds; the level does not matter here.
        comparisons = compare_objective(sample, baseline, ALPHA, self._study)
        gains = [comparisons[index].difference if index != baseline else 0.0 for index in range(len(values))]
        best, second = sorted(sorted(range(len(values)), key=lambda index: -gains[index])[:2], key=values.__getitem__)
        between = [value for value in values if values[best] < value < values[second]]
        steep = abs(gains[best] - gains[second]) > self._study.resolution / 200
        if not values[best] > 0 or between or not steep or values[second] / values[best] < 1.5:
            return None
        arm = arm_from_values({option: float(f"{math.sqrt(values[best] * values[second]):.2g}")})
        return self.arms.setdefault(arm.name, arm)

    def _sample(self, finished: Sequence[Result]) -> Sample:
        by_arm = ([result for result in finished if result.arm == name] for name in self.arms)
        return sample_of(by_arm, Objective.parse(self._study.objective))

    def _finished(self) -> list[Result]:
        for key, trial in self.planned.items():
            if key not in self._results and trial.done and (result := results.read(trial.folder, self._study.score)):
                self._results[key] = result
        return list(self._results.values())


class Limits:
    """The budget of a study that continues until it is decided.

    Args:
        trials: The largest number of trials, or None.
        hours: The largest number of hours that this command may run before its last trial starts, or None.
    """

    def __init__(self, trials: int | None, hours: float | None) -> None:
        self._trials = trials
        self._end = math.inf if hours is None else time.monotonic() + 3600 * hours

    def reached(self, trials: int) -> bool:
        """Whether no further trial may be started."""
        return time.monotonic() >= self._end or (self._trials is not None and trials >= self._trials)
