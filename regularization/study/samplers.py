"""Adaptive search by Optuna, the extra ``search``: proposes arms, and says which trials are not worth going on with."""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study import results
from regularization.study.config import Arm, Study, Trial, arm_from_values

if TYPE_CHECKING:
    from regularization.study.execution.storage import Storage

PROPOSALS = "proposals.json"
# A rung lets the better third of its trials go on, to three times as many epochs.
REDUCTION = 3


def optuna() -> Any:
    """The module, silent.

    Raises:
        UserError: When it is not installed.
    """
    try:
        import optuna as module
    except ImportError as error:
        raise UserError("this search needs Optuna: pip install 'regularization[search]'") from error
    module.logging.set_verbosity(module.logging.WARNING)
    return module


class Halving:
    """Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943), asynchronous, by Optuna's pruner.

    Rungs lie at a ninth, a third and all of the epochs. A trial that is not among the better third of those that
    have reached a rung so far stops there.

    Args:
        epochs: Epochs of a whole trial.
        known: Trials that ran before, or in part, to begin with what is known.
        storage: Where several coordinators keep what is known, None when there is one; made under their lock.
        name: Its name there.
    """

    def __init__(
        self, epochs: int, known: Sequence[Trial] = (), storage: "Storage | None" = None, name: str = ""
    ) -> None:
        module = optuna()
        first = max(1, epochs // REDUCTION**2)
        pruner = module.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
        make = module.create_study if storage is None else partial(storage.study, name)
        self._patient = nullcontext if storage is None else storage.patient
        self._study = make(direction="maximize", pruner=pruner)
        self._claimed: dict[str, Any] = {}
        # What a storage knows, all coordinators have told it.
        for trial in () if self._study.get_trials(deepcopy=False) else known:
            for row in results.read_rows(trial.folder):
                if row["epoch"] + 1 < epochs:
                    self(trial, int(row["epoch"]), row.get("val_accuracy", math.nan))

    def __call__(self, trial: Trial, epoch: int, accuracy: float) -> bool:
        """Whether the trial goes on after ``epoch``, counted from 0; with NaN, an epoch without validation, it does."""
        if math.isnan(accuracy):
            return True
        with self._patient():
            claimed = self._claim(trial.name)
            claimed.report(accuracy, epoch + 1)
            return not claimed.should_prune()
        return True

    def _claim(self, name: str) -> Any:
        """Optuna's trial for ours, which another coordinator may have begun."""
        if name not in self._claimed:
            begun = [one for one in self._study.get_trials(deepcopy=False) if one.user_attrs.get("name") == name]
            if begun:
                self._claimed[name] = optuna().trial.Trial(self._study, begun[0]._trial_id)
            else:
                self._claimed[name] = self._study.ask()
                self._claimed[name].set_user_attr("name", name)
        return self._claimed[name]


class Proposals:
    """Values of one option, proposed by Optuna's TPE (Bergstra et al. 2011) from the results so far.

    Proposals are written down before they are tried: a search that is started again tries the same ones.

    Args:
        study: The study, whose axis gives the range: from its smallest to its largest positive value, on a log scale.
        folder: The study's folder.
    """

    def __init__(self, study: Study, folder: Path) -> None:
        module = optuna()
        assert study.axis is not None
        self._option = study.axis
        positive = [value for value in study.vary[self._option] if value > 0]
        if len(set(positive)) < 2:
            raise UserError(f"search tpe needs a range: two values above 0 at least for vary.{self._option}")
        self._range = module.distributions.FloatDistribution(min(positive), max(positive), log=True)
        self._study = module.create_study(direction="maximize")
        self._path = folder / PROPOSALS
        self._values: list[float] = json.loads(self._path.read_text()) if self._path.is_file() else []
        self._asked: list[Any] = []

    def next(self) -> Arm:
        """The next arm to try."""
        place = len(self._asked)
        # Seeded by the place, so that a search that is started again does not draw the same numbers again.
        sampler = optuna().samplers.TPESampler(seed=place, constant_liar=True, n_startup_trials=5)
        self._study.sampler = sampler
        if place < len(self._values):
            self._study.enqueue_trial({self._option: self._values[place]})
        trial = self._study.ask({self._option: self._range})
        self._asked.append(trial)
        value = float(f"{trial.params[self._option]:.3g}")
        if place == len(self._values):
            self._values.append(value)
            directory.write_text(self._path, json.dumps(self._values) + "\n")
        return arm_from_values({self._option: self._values[place]})

    def tell(self, place: int, accuracy: float | None) -> None:
        """What came of the arm that was proposed in this place; None when it failed."""
        module = optuna()
        if accuracy is None or math.isnan(accuracy):
            self._study.tell(self._asked[place], state=module.trial.TrialState.FAIL)
        else:
            self._study.tell(self._asked[place], accuracy)
