"""The stages of a study: search, final, and closing."""

from functools import partial
from pathlib import Path

from optuna.storages import BaseStorage

from regularization.models.objective import Objective
from regularization.runs import directory
from regularization.study.closing import STUDY, choose_finalists, close_study
from regularization.study.config import FAILED, Arm
from regularization.study.execution.coordinator import Coordinator
from regularization.study.execution.executor import Executor
from regularization.study.execution.queue import TrialQueue
from regularization.study.extension import study_record
from regularization.study.plan import Plan
from regularization.study.report.answer import StudyAnswer
from regularization.study.report.live_table import LiveTable
from regularization.study.samplers import DecidingQueue, Limits, ProposalQueue, halving

# Seconds that a coordinator waits for another one, which may be scoring the test images or running the refit.
PATIENCE = 7 * 86400.0


class Pipeline:
    """Runs the missing parts of a study.

    Args:
        plan: Its plan.
        folder: Its folder.
        executor: Runs the trials.
        storage: The Optuna storage of the study.
        name: The name of the study in the storage.
    """

    def __init__(self, plan: Plan, folder: Path, executor: Executor, storage: BaseStorage, name: str) -> None:
        self._plan = plan
        self._folder = folder
        self._storage = storage
        self._name = name
        self._coordinator = Coordinator(executor, plan.study.score)
        self._objective = Objective.parse(plan.study.objective)
        self._failed: dict[str, str] = {}
        self._limits = Limits(plan.options.trials, plan.options.hours)

    def run(self, command: str) -> StudyAnswer:
        """Runs the study to its end; returns the answer.

        Args:
            command: The command line, for the report.

        Raises:
            UserError: When no trial has finished.
        """
        plan, folder = self._plan, self._folder
        with directory.exclusive_lock(folder, PATIENCE):
            directory.write_text(folder / STUDY, study_record(plan, command))
            for failed in folder.rglob(FAILED) if plan.options.retry_failed else []:
                failed.unlink()
        arms = plan.arms
        if plan.study.adaptive:
            print("stage 1 of 2: choosing the values of each arm")
            arms = self._search()
            print(f"stage 2 of 2: comparing {', '.join(arm.name for arm in arms)}", flush=True)
            # A report that is made before the end counts the missing trials of these arms.
            plan.compared = [arm.name for arm in arms]
            with directory.exclusive_lock(folder, PATIENCE):
                directory.write_text(folder / STUDY, study_record(plan, command))
        queue = self._final_queue(arms)
        self._train(queue)
        while isinstance(queue, DecidingQueue) and queue.unfinished():
            queue = self._final_queue(arms)
            self._train(queue)
        arms, trials = plan.with_refined(arms, queue.planned.values()), list(queue.planned.values())
        for name, reason in self._failed.items():
            print(f"failed: {name}: {reason}")
        with directory.exclusive_lock(folder, PATIENCE):
            return close_study(plan, arms, trials, folder, command, self._coordinator.run_alone)

    def _final_queue(self, arms: list[Arm]) -> TrialQueue:
        """The queue of the final stage: with all trials, or with as many as decide the study."""
        plan, study = self._plan, self._plan.study
        where = (self._name, self._storage, self._folder, plan.trials("final", arms, self._folder))
        if study.until == "seeds":
            return TrialQueue(*where, objective=self._objective)
        return DecidingQueue(
            *where,
            study=study,
            arms=arms,
            baseline=plan.baseline_among(arms).name,
            plan=lambda arms, seeds: plan.trials("final", arms, self._folder, seeds),
            limits=self._limits,
            objective=self._objective,
        )

    def _train(self, queue: TrialQueue) -> None:
        table = LiveTable(queue, self._plan.epochs)
        with table.shown():
            self._coordinator.run(queue, table.on_end)
        failed = [trial for trial in queue.planned.values() if (trial.folder / FAILED).is_file()]
        self._failed |= {trial.name: (trial.folder / FAILED).read_text(encoding="utf-8").strip() for trial in failed}

    def _search(self) -> list[Arm]:
        """Searches over the study's arms, or over those that TPE proposes; returns the finalists and the baseline."""
        plan, study, arms = self._plan, self._plan.study, self._plan.first_arms()
        where = (f"{self._name} search", self._storage, self._folder, plan.trials("search", arms, self._folder))
        if study.search == "tpe":
            propose = partial(plan.trials, "search", folder=self._folder)
            queue = ProposalQueue(*where, study=study, plan=propose, objective=self._objective)
            self._train(queue)
            return choose_finalists(plan, [*arms, *queue.arms.values()], self._folder)
        pruner = halving(plan.epochs) if study.search == "halving" else None
        self._train(TrialQueue(*where, pruner, self._objective))
        return choose_finalists(plan, arms, self._folder)
