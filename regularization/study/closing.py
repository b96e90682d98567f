"""The end of a study: choosing finalists, the conclusion, scoring the test images, the report, and the refit."""

import contextlib
import io
import json
import math
import os
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from regularization.errors import UserError
from regularization.models.objective import Objective
from regularization.runs import directory
from regularization.study import found_runs, results
from regularization.study.account import add_look, first_alpha, later_alpha, read_looks
from regularization.study.analysis.conclusion import Conclusion, Context, draw_conclusion
from regularization.study.analysis.verdicts import Answer
from regularization.study.config import FAILED, TRIAL, Arm, Study, Trial
from regularization.study.config import STUDY as STUDY
from regularization.study.extension import study_record
from regularization.study.found_runs import Failure
from regularization.study.report.answer import StudyAnswer
from regularization.study.report.page import write_report
from regularization.study.report.tables import write_table
from regularization.study.results import Result
from regularization.training.command import run_scoring
from regularization.training.configs import short_name

if TYPE_CHECKING:
    from regularization.study.plan import Plan

REFIT = "refit"
TESTED = "tested.json"


def choose_finalists(plan: "Plan", arms: list[Arm], folder: Path) -> list[Arm]:
    """The best value of each tuned arm, or the best arms of a search; with the baseline, in the order of the arms.

    Raises:
        UserError: When no trial of the search has a result.
    """
    scores = {arm.name: score for arm in arms if (score := _search_score(plan, arm, folder)) is not None}
    if not scores:
        raise UserError(f"no trial of the search came to its end; see {folder}/search/*/*/log.txt")
    ranked = sorted((arm for arm in arms if arm.name in scores), key=lambda arm: -scores[arm.name])
    if plan.study.arms or plan.study.learning_rates:
        best: dict[str, Arm] = {}
        for arm in ranked:
            best.setdefault(arm.group, arm)
        chosen = list(best.values())
    else:
        chosen = ranked[: plan.study.finalists]
    if plan.baseline is not None and plan.baseline not in chosen:
        # A baseline that the study names is tuned like the others; the arm without regularization is not replaced.
        tuned = plan.study.baseline is not None or plan.study.learning_rates
        group = [arm for arm in chosen if arm.group == plan.baseline.group and tuned]
        plan.baseline = group[0] if group else plan.baseline
        chosen += [] if group else [plan.baseline]
    order = sorted(arms, key=lambda arm: list(arm.values.values())) if plan.study.axis else arms
    return [arm for arm in order if arm in chosen]


def _search_score(plan: "Plan", arm: Arm, folder: Path) -> float | None:
    """Mean score of an arm in the search; None if a trial of it failed or was pruned."""
    runs = [results.read(trial.folder, plan.study.score) for trial in plan.trials("search", [arm], folder)]
    scores = [run.score(plan.study) for run in runs if run is not None and not run.pruned]
    return sum(scores) / len(scores) if len(scores) == len(runs) else None


def close_study(
    plan: "Plan", arms: list[Arm], trials: list[Trial], folder: Path, command: str, train: Callable[[Trial], None]
) -> StudyAnswer:
    """Chooses an arm, scores the test images and reports; steps that were done before are not repeated.

    Args:
        plan: The plan of the study.
        arms: The arms that are compared.
        trials: Their trials.
        folder: The folder of the study.
        command: The command line, for the report.
        train: Runs a trial, for the refit.

    Raises:
        UserError: When no trial has a result, or the refit failed.
    """
    plan.compared = [arm.name for arm in arms]
    final_runs = _final(found_runs.find([folder], plan.study.score).results, plan.study, plan.compared)
    named = plan.baseline.name if plan.baseline is not None and plan.baseline in arms else None
    baseline = named or _unregularized_arm(final_runs, plan.study)
    # The baseline may be known only now. It is recorded so that a later report compares with the same arm.
    plan.baseline = next((arm for arm in arms if arm.name == baseline), None)
    directory.write_text(folder / STUDY, study_record(plan, command))
    if plan.study.until == "seeds":
        add_look(folder, plan.study, baseline, final_runs)
    context = Context(baseline, workers=plan.workers or 1, command=command)
    first, _ = conclude([folder], plan.study, context, plan.compared)
    _test(first, plan, trials, folder)
    final, everything = conclude([folder], plan.study, context, plan.compared)
    write_answer(final, everything, plan.study, folder, command)
    chosen = next(arm for arm in arms if arm.name == first.chosen.name)
    if plan.refit:
        _refit(plan, chosen, folder, train)
    elif final.answer == Answer.HELPS:
        print(f"train this arm: {_fit_command(plan, chosen)}", flush=True)
    return StudyAnswer(**vars(final), study=plan.study, folder=folder)


def conclude(
    folders: list[Path], study: Study, context: Context, compared: Collection[str] | None
) -> tuple[Conclusion, list[Result]]:
    """The conclusion from the finished runs in ``folders``, and all runs that belong to the study.

    Args:
        folders: The folders that contain the runs.
        study: The study.
        context: The arm to compare with, or None; an arm without results is ignored. Fields that depend on the runs are
            filled in from the folders.
        compared: Names of the study's current arms; None for all arms in the folders.

    Raises:
        UserError: When no run is finished.
    """
    runs = found_runs.find(folders, study.score)
    everything = [run for run in runs.results if run.stage != REFIT]
    final, unmeasured = _measured(_final(everything, study, compared), study)
    failures = [failure for failure in runs.failures if _is_current(failure, study, compared)]
    removed = [run for run in everything if run.stage == "final" and run not in (*final, *unmeasured)]
    is_study = len(folders) == 1 and bool(study.base)
    missing = _missing(folders[0], study, compared) if is_study and compared is not None else 0
    searching, looks = is_study and study.adaptive and compared is None, read_looks(folders[0]) if is_study else []
    known = replace(
        context,
        baseline=context.baseline or _unregularized_arm(final, study),
        failures=_final_failures(failures),
        without_result={} if missing or searching else _without_result(failures, everything, final),
        alpha=looks[-1].alpha if looks else first_alpha(study),
        later_alpha=later_alpha(study, looks),
        missing=missing,
        searching=searching,
    )
    conclusion = draw_conclusion(final, study, known)
    left_out = [f"left out, no longer part of the study: {run.arm} seed {run.seed}" for run in removed]
    # In a single study, unfinished trials are only counted, in ``missing``.
    left_out += [] if is_study else runs.left_out
    left_out += [f"left out, without {Objective.parse(study.objective).name}: {run.folder}" for run in unmeasured]
    remarks = [*conclusion.remarks, *left_out]
    return replace(conclusion, remarks=remarks), [run for run in everything if run not in removed]


def _is_current(failure: Failure, study: Study, compared: Collection[str] | None) -> bool:
    """Whether the study still has the arm and the seed of a failed trial; ``compared`` as for ``conclude``."""
    if compared is None:
        return True
    if failure.stage == "final":
        return failure.arm in compared and failure.seed in study.seed_list()
    return not study.arms or failure.group in study.arms


def _final_failures(failures: Sequence[Failure]) -> dict[str, list[str]]:
    """Why trials of the comparison failed, by arm."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        if failure.stage == "final":
            reasons.setdefault(failure.arm, []).append(f"seed {failure.seed}: {failure.reason}")
    return reasons


def _without_result(failures: Sequence[Failure], runs: Sequence[Result], final: Sequence[Result]) -> dict[str, str]:
    """Arms whose trials all failed, in the search or in the comparison, with the reason of the first failure."""
    failed_in_search = {failure.arm for failure in failures if failure.stage == "search"}
    known = {run.group for run in runs if run.stage == "search" and run.arm not in failed_in_search}
    known |= {name for run in final for name in (run.arm, run.group)}
    reasons: dict[str, str] = {}
    for failure in failures:
        name = failure.group if failure.stage == "search" else failure.arm
        if name not in known:
            reasons.setdefault(name, failure.reason)
    return reasons


def _unregularized_arm(runs: Sequence[Result], study: Study) -> str | None:
    """The arm to compare with if the study has not recorded one.

    With two varied options, it is the best arm without regularization. Of runs outside of a study, it is the only arm
    without regularization.
    """
    arms = {name: own for name, own in results.by_arm(runs).items() if own[0].unregularized}
    if len(study.vary) == 2:
        return max(arms, key=lambda name: sum(run.score(study) for run in arms[name]) / len(arms[name]), default=None)
    return next(iter(arms)) if not study.base and len(arms) == 1 else None


def _missing(folder: Path, study: Study, compared: Collection[str]) -> int:
    """Number of planned trials of the comparison that have neither finished nor failed."""
    first = {folder / "final" / arm / f"seed_{seed}" for arm in compared for seed in study.first_seeds()}
    begun = {path.parent for path in folder.glob(f"final/*/*/{TRIAL}")}
    seeds = {f"seed_{seed}" for seed in study.seed_list()}
    planned = first | {path for path in begun if path.parent.name in compared and path.name in seeds}
    return sum(not (path / directory.RESULT).is_file() and not (path / FAILED).is_file() for path in planned)


def write_answer(conclusion: Conclusion, runs: Sequence[Result], study: Study, folder: Path, command: str) -> None:
    """Writes the table, the report and its figures, and prints the remarks and the conclusion."""
    write_table(runs, folder / results.TABLE, conclusion.chosen.objective)
    page = write_report(conclusion, runs, study, folder, command)
    for remark in conclusion.remarks:
        print(remark)
    print(f"{conclusion.sentence}\n{page}", flush=True)


def _fit_command(plan: "Plan", arm: Arm) -> str:
    """The command that trains an arm as the study did, except for the seed."""
    args = [*plan.common, *arm.args]
    shown = [short_name(Path(word)) if before == "--config" else word for before, word in pairwise(["", *args])]
    return shlex.join(["python", "-m", "regularization", "fit", *shown])


def _final(runs: Sequence[Result], study: Study, compared: Collection[str] | None) -> list[Result]:
    """The runs that are compared: those of the final stage, or of the search if there are none yet."""
    final = [run for run in runs if run.stage == "final"]
    if compared is None:
        return final or list(runs)
    selected = [run for run in final if run.arm in compared and run.seed in study.seed_list()]
    if not selected:
        raise UserError("no trial of the study came to its end; see final/*/*/log.txt in its folder")
    return selected


def _measured(runs: list[Result], study: Study) -> tuple[list[Result], list[Result]]:
    """Splits runs into those in which the objective was measured and the others.

    Raises:
        UserError: When none has it.
    """
    metric = Objective.parse(study.objective).metric
    measured = [run for run in runs if math.isfinite(run.metric(metric))]
    if not measured:
        raise UserError(f"objective: no run has {metric} in the epoch that counts, which is the {study.score} one")
    return measured, [run for run in runs if run not in measured]


def _test(conclusion: Conclusion, plan: "Plan", trials: list[Trial], folder: Path) -> None:
    """Scores the test images once, with the chosen arm and the baseline; no other arm is scored later."""
    chosen, baseline = conclusion.chosen, conclusion.baseline or conclusion.chosen
    if not (folder / TESTED).is_file():
        directory.write_text(folder / TESTED, json.dumps(sorted({chosen.name, baseline.name})) + "\n")
    tested = json.loads((folder / TESTED).read_text(encoding="utf-8"))
    waiting = [trial for trial in trials if trial.arm.name in tested and _is_untested(trial, plan)]
    if waiting:
        print(f"evaluating {len(waiting)} networks of {' and '.join(tested)} on the test images", flush=True)
    # The networks are scored one after the other, on the cores of all workers.
    torch.set_num_threads(min(plan.threads * (plan.workers or 1), max(plan.threads, os.cpu_count() or 1)))
    for trial in waiting:
        _score(trial, plan.study.score)


def _is_untested(trial: Trial, plan: "Plan") -> bool:
    result = results.read(trial.folder, plan.study.score)
    return result is not None and result.test_accuracy is None


def _refit(plan: "Plan", arm: Arm, folder: Path, train: Callable[[Trial], None]) -> None:
    """Trains the chosen arm once more, on training and validation images together, and tests that network once."""
    seed = plan.study.seed_list()[0]
    options = [f"--seed_everything={seed}", "--data.val_size=null"]
    trial = Trial(arm, seed, REFIT, (*plan.common, *arm.args, *options), folder / REFIT / arm.name)
    trial.plan()
    if not trial.done:
        train(trial)
    if "test" not in directory.read_result(trial.folder):
        _score(trial, "last")
    accuracy = directory.read_result(trial.folder)["test"]["test_accuracy"]
    print(f"refit on all training images: test accuracy {accuracy:.2%}\n{trial.folder}")


def _score(trial: Trial, checkpoint: str) -> None:
    """Scores the test images with a checkpoint of the trial."""
    with contextlib.redirect_stdout(io.StringIO()):
        run_scoring("test", [f"--ckpt_path={checkpoint}", *trial.args, "--threads=null"], trial.folder)
