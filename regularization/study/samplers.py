"""Adaptive search by Optuna: TPE proposes arms, successive halving prunes trials."""

from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler

from regularization.errors import UserError
from regularization.study.config import Arm, Study, Trial, arm_from_values
from regularization.study.execution.queue import RUN, SEED, TrialQueue

# At a rung, the better third of the trials continues, to three times as many epochs.
REDUCTION = 3


def halving(epochs: int) -> SuccessiveHalvingPruner:
    """Asynchronous successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943).

    Rungs lie at a ninth, a third and all of the ``epochs`` of a trial. One that is not among the better third of those
    that have reached a rung so far is pruned there.
    """
    return SuccessiveHalvingPruner(min_resource=max(1, epochs // REDUCTION**2), reduction_factor=REDUCTION)


def proposal_range(study: Study) -> FloatDistribution:
    """From the smallest to the largest positive value that the study lists, on a log scale.

    Raises:
        UserError: When there are not two of them.
    """
    assert study.axis is not None
    positive = {value for value in study.vary[study.axis] if value > 0}
    if len(positive) < 2:
        raise UserError(f"search tpe needs a range: two values above 0 at least for vary.{study.axis}")
    return FloatDistribution(min(positive), max(positive), log=True)


class ProposalQueue(TrialQueue):
    """A queue that, when it is empty, has TPE (Bergstra et al. 2011) propose another value from the results so far.

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
        """An arm without regularization has no place on the log scale."""
        return {SEED: trial.seed} if trial.arm.unregularized else super().parameters(trial)

    def distribution(self, option: str) -> FloatDistribution:
        """The same for all trials."""
        return self._space

    def update(self) -> None:
        """Takes note of what was proposed before, or by other coordinators."""
        for trial in self.get_trials(deepcopy=False):
            if self._option in trial.params and RUN in trial.user_attrs:
                self._add(trial.params[self._option])

    def _propose(self) -> optuna.Trial | None:
        """A new value: TPE, seeded by the number of trials so that a search that resumes draws other numbers."""
        if len(self.arms) >= self._wanted:
            return None
        self.sampler = TPESampler(seed=len(self.get_trials(deepcopy=False)), constant_liar=True, n_startup_trials=5)
        trial = optuna.Study.ask(self, {self._option: self._space, SEED: IntDistribution(0, 0)})
        before = len(self.arms)
        first = self._add(trial.params[self._option])[0]
        if len(self.arms) == before:  # a value that was proposed already
            self.tell(trial, state=optuna.trial.TrialState.FAIL)
            return self._propose()
        for name, value in self.attributes(first).items():
            trial.set_user_attr(name, value)
        return self._hand_out(trial)

    def _add(self, proposed: float) -> list[Trial]:
        value = min(max(float(f"{proposed:.3g}"), self._space.low), self._space.high)
        arm = arm_from_values({self._option: value})
        self.arms[arm.name] = arm
        trials = self._plan([arm])
        self.plan(trials)
        return trials
