"""The stages of a study: search, final, test, refit, and the report at the end."""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from regularization.errors import UserError
from regularization.runs import directory
from regularization.study import results
from regularization.study.conclusion import Conclusion, draw_conclusion
from regularization.study.config import Arm, Study, Trial
from regularization.study.execution.runner import Runner
from regularization.study.execution.storage import name_in
from regularization.study.execution.tickets import Tickets
from regularization.study.live_table import LiveTable
from regularization.study.plan import Plan
from regularization.study.report.page import write_report
from regularization.study.samplers import Halving, Proposals
from regularization.training.command import run_scoring

STUDY = "study.yaml"
REFIT = "refit"
TESTED = "tested.json"


def run(plan: Plan, folder: Path, command: str) -> Conclusion:
    """Runs what is not done of the study in ``folder``, and closes it; ``command`` is what was typed, for the record.

    Returns:
        The answer.

    Raises:
        UserError: When no trial came to its end.
    """
    with plan.alone(folder):
        directory.write_text(folder / STUDY, plan.text(command))
    print(f"study: {folder}", flush=True)
    finalists = plan.arms
    failed: dict[str, str] = {}
    if plan.study.adaptive:
        finalists, failed = _search(plan, folder)
    trials = plan.trials("final", finalists, folder)
    failed |= _train(plan, folder, trials)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    with plan.alone(folder):
        return _close(plan, finalists, trials, folder, command)


def _close(plan: Plan, finalists: list[Arm], trials: list[Trial], folder: Path, command: str) -> Conclusion:
    """Chooses, scores the test images, and says what came out; what was done before is not done again."""
    found = results.find([folder / "final"], plan.study.score)
    lost = results.failures([folder])
    baseline = _baseline(plan, finalists, found)
    # Which arm that is may be known only now; a report that is made again compares with the same one.
    plan.baseline = next((arm for arm in finalists if arm.name == baseline), None)
    directory.write_text(folder / STUDY, plan.text(command))
    first = draw_conclusion(found, plan.study, baseline, lost)
    _test(first, plan, trials, folder)
    everything = results.find([folder / "final", folder / "search"], plan.study.score)
    found = [one for one in everything if one.stage == "final"]
    final = draw_conclusion(found, plan.study, baseline, lost)
    close(final, everything, plan.study, folder, command)
    if plan.refit:
        _refit(plan, next(arm for arm in finalists if arm.name == first.chosen.name), folder)
    return final


def _baseline(plan: Plan, finalists: list[Arm], found: Sequence[results.Result]) -> str | None:
    """The baseline's name; with two axes the best of the arms without regularization, whatever else they differ in."""
    if plan.study.baseline is None and len(plan.study.vary) == 2:
        free = {name: own for name, own in results.by_arm(found).items() if own[0].unregularized}
        return max(free, key=lambda name: sum(one.accuracy for one in free[name]) / len(free[name]), default=None)
    return plan.baseline.name if plan.baseline is not None and plan.baseline in finalists else None


def _train(plan: Plan, folder: Path, trials: list[Trial], judge: Callable[..., bool] | None = None) -> dict[str, str]:
    table = LiveTable(trials)
    pending = None
    if plan.storage is not None and trials[0].stage != REFIT:
        pending = Tickets(plan.storage, f"{_name(plan, folder)} {trials[0].stage}", trials, folder)
    with table.shown() as show:
        return Runner(folder, plan.crew, judge, show).run(trials, pending)


def _name(plan: Plan, folder: Path) -> str:
    """The study's name in the storage."""
    with plan.alone(folder):
        return name_in(folder)


def _search(plan: Plan, folder: Path) -> tuple[list[Arm], dict[str, str]]:
    """Tries the arms, or those that are proposed; returns the finalists, the baseline among them, and failures."""
    arms = list(plan.arms)
    failed: dict[str, str] = {}
    if plan.study.search == "tpe":
        arms = [arm for arm in arms if arm.unregularized]
        proposals = Proposals(plan.study, folder)
        proposed: list[Arm] = []
        while len(proposed) < plan.study.proposals:
            batch = [proposals.next() for _ in range(min(plan.workers, plan.study.proposals - len(proposed)))]
            failed |= _train(
                plan, folder, plan.trials("search", list({arm.name: arm for arm in batch}.values()), folder)
            )
            for arm in batch:
                proposals.tell(len(proposed), _score(plan, folder, arm))
                proposed.append(arm)
        arms += {arm.name: arm for arm in proposed}.values()
    trials = plan.trials("search", arms, folder)
    judge = None
    if plan.study.search == "halving":
        assert plan.first is not None
        begun = [trial for trial in trials if (trial.folder / directory.METRICS).is_file()]
        name = "" if plan.storage is None else f"{_name(plan, folder)} halving"
        with plan.alone(folder):
            judge = Halving(plan.first.trainer.max_epochs or 1, begun, plan.storage, name)
    failed |= _train(plan, folder, trials, judge)
    return _finalists(plan, folder, arms), failed


def _score(plan: Plan, folder: Path, arm: Arm) -> float | None:
    """Mean validation accuracy of an arm in the search; None when it failed or was stopped early."""
    found = [results.read(trial.folder, plan.study.score) for trial in plan.trials("search", [arm], folder)]
    scores = [one.accuracy for one in found if one is not None and not one.pruned]
    return sum(scores) / len(scores) if len(scores) == len(found) else None


def _finalists(plan: Plan, folder: Path, arms: list[Arm]) -> list[Arm]:
    """The best value of each tuned arm, or the best arms; with the baseline, in the order of the arms."""
    scores = {arm.name: score for arm in arms if (score := _score(plan, folder, arm)) is not None}
    if not scores:
        raise UserError(f"no trial of the search came to its end; see {folder}/search/*/*/log.txt")
    ranked = sorted((arm for arm in arms if arm.name in scores), key=lambda arm: -scores[arm.name])
    if plan.study.arms:
        best: dict[str, Arm] = {}
        for arm in ranked:
            best.setdefault(arm.group, arm)
        chosen = list(best.values())
    else:
        chosen = ranked[: plan.study.finalists]
    if plan.baseline is not None and plan.baseline not in chosen:
        # A baseline that was named is tuned like the others; the one without regularization stays what it is.
        group = [arm for arm in chosen if arm.group == plan.baseline.group and plan.study.baseline is not None]
        plan.baseline = group[0] if group else plan.baseline
        chosen += [] if group else [plan.baseline]
    order = sorted(arms, key=lambda arm: list(arm.values.values())) if plan.study.axis else arms
    return [arm for arm in order if arm in chosen]


def _test(found: Conclusion, plan: Plan, trials: list[Trial], folder: Path) -> None:
    """EpochMetrics the test images, once: with the chosen arm and the baseline, and never with another arm later."""
    named = sorted({found.chosen.name, found.baseline.name if found.baseline else found.chosen.name})
    if not (folder / TESTED).is_file():
        directory.write_text(folder / TESTED, json.dumps(named) + "\n")
    named = json.loads((folder / TESTED).read_text())
    torch.set_num_threads(plan.threads)
    for trial in trials:
        result = results.read(trial.folder, plan.study.score)
        if trial.arm.name in named and result is not None and result.test_accuracy is None:
            with contextlib.redirect_stdout(io.StringIO()):
                args = [f"--ckpt_path={plan.study.score}", *trial.args[1:], "--threads=null"]
                run_scoring("test", args, trial.folder)


def _refit(plan: Plan, arm: Arm, folder: Path) -> None:
    """Trains the chosen arm once more, on training and validation images together, and tests that network once."""
    seed = plan.study.seed_list()[0]
    everything = [f"--seed_everything={seed}", "--data.val_size=null"]
    trial = Trial(arm, seed, REFIT, ("fit", *plan.common, *arm.args, *everything), folder / REFIT / arm.name)
    if failed := _train(plan, folder, [trial]):
        raise UserError(f"the refit failed: {failed[trial.name]}")
    kept = json.loads((trial.folder / directory.RESULT).read_text())
    if "test" not in kept:
        with contextlib.redirect_stdout(io.StringIO()):
            run_scoring("test", ["--ckpt_path=last", *trial.args[1:], "--threads=null"], trial.folder)
        kept = json.loads((trial.folder / directory.RESULT).read_text())
    print(f"refit on all training images: test accuracy {kept['test']['test_accuracy']:.4f}\n{trial.folder}")


def close(found: Conclusion, everything: Sequence[results.Result], study: Study, folder: Path, command: str) -> None:
    """Writes table, report and picture, and says the sentence."""
    results.write_table(everything, folder / "results.csv")
    page = write_report(found, everything, study, folder, command)
    for remark in found.remarks:
        print(remark)
    print(f"{found.sentence}\n{page}", file=sys.stdout, flush=True)
