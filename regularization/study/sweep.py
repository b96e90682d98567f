"""A sweep from its parsed options to its conclusion: a new study, or one that is continued or extended."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna

from regularization.callbacks.checkpointing import RunInterrupted
from regularization.errors import UserError
from regularization.models.objective import DEFAULT
from regularization.runs import directory
from regularization.study import config as study_config
from regularization.study.checks import check_options, check_study
from regularization.study.closing import STUDY
from regularization.study.config import Study
from regularization.study.dry_run import describe
from regularization.study.execution.storage import JOURNAL, open_database, open_journal, without_password
from regularization.study.extension import check_extends, study_record
from regularization.study.pipeline import Pipeline
from regularization.study.plan import Plan
from regularization.study.report.answer import StudyAnswer
from regularization.training.configs import find_config


def run_sweep(
    study: Study, options: Any, common: Sequence[str], config: Path, args: Sequence[str]
) -> StudyAnswer | None:
    """Runs the missing parts of a study.

    Args:
        study: The study.
        options: The options of the command ``sweep``.
        common: Options of ``fit`` that all trials share.
        config: The study's config file; the study's folder is named after it.
        args: The command-line arguments, for the report.

    Returns:
        The conclusion; None after a dry run.

    Raises:
        UserError: When the study can't be run.
        SystemExit: After SIGINT (exit code 130) or SIGTERM (143).
    """
    with _silent_optuna():
        check_study(study)
        arms = study_config.build_arms(study, config)
        check_options(study, arms, common)
        bases = [study.base] if isinstance(study.base, str) else study.base
        configs = [word for name in bases for word in ("--config", str(find_config(name, config)))]
        objective = [] if study.objective == DEFAULT else [f"--objective={study.objective}"]
        shared = [*configs, *study_config.to_cli_args(study.options), *common, *objective]
        plan = Plan(study, arms, study_config.find_baseline(study, arms), shared, options)
        plan.check()
        if options.dry_run:
            _describe(plan, Path(options.folder) / directory.run_name([config]))
            return None
        url = options.storage
        # Others may read the report: it must not contain a password.
        shown = [arg.replace(url, without_password(url)) for arg in args] if url else args
        # The command continues the study, which it would not with --fresh.
        shown = [arg for arg in shown if arg != "--fresh"]
        command = shlex.join(["python", "-m", "regularization", "sweep", *shown])
        return _run(plan, directory.run_name([config]), command)


def _describe(plan: Plan, folder: Path) -> None:
    """Prints the remaining trials of the newest study in ``folder``, or all trials and why it can't be continued."""
    existing, refusal = None, ""
    try:
        existing = _continued(plan, folder)
    except UserError as error:
        refusal = str(error)
    describe(plan, existing)
    if refusal:
        print(refusal)


def _run(plan: Plan, name: str, command: str) -> StudyAnswer:
    database = open_database(plan.options.storage) if plan.options.storage else None
    executor = plan.executor()
    try:
        folder = _folder(plan, Path(plan.options.folder), name)
        storage = database or open_journal(folder)
        # A database may contain other studies, so the name must be unique; a journal has a short, readable name.
        title = str(folder.resolve()) if database else f"{folder.parent.name}/{folder.name}"
        print("\n".join([f"study: {folder}", *_dashboard(folder, plan.options.storage)]), flush=True)
        return Pipeline(plan, folder, executor, storage, title).run(command)
    except RunInterrupted as stopped:
        same = "the same command without --fresh" if plan.options.fresh else "the same command"
        print(f"stopped by {stopped}; {same} goes on\n{folder}")
        raise SystemExit(128 + stopped.number) from None
    finally:
        executor.close()


@contextmanager
def _silent_optuna() -> Iterator[None]:
    """Failed trials are reported by the table, not by Optuna's log."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _dashboard(folder: Path, url: str | None) -> list[str]:
    """The command that shows the study in a browser, if Optuna's dashboard is installed."""
    if find_spec("optuna_dashboard") is None:
        return []
    return [f"watch it: optuna-dashboard {shlex.quote(without_password(url) if url else str(folder / JOURNAL))}"]


def _folder(plan: Plan, root: Path, name: str) -> Path:
    """The newest study folder of this name, or a new one; the same for all coordinators with the same options."""
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"can't create {root / name}: {error.strerror}. Name another --folder.") from error
    with directory.exclusive_lock(root / name):
        if (existing := _continued(plan, root / name)) is not None:
            return existing
        # No advice with Ray, because its nodes may have other processors, or for a continued study, which keeps its
        # precision.
        if plan.first is not None and not plan.options.ray and (advice := plan.first.precision_advice()):
            print(advice)
        folder = directory.create_run_dir(root, name)
        directory.write_text(folder / STUDY, study_record(plan, ""))
        return folder


def _continued(plan: Plan, folder: Path) -> Path | None:
    """The newest study in ``folder``, which ``plan`` continues; None if there is none, or with ``--fresh``.

    Raises:
        UserError: When it is another study.
    """
    studies = [] if plan.options.fresh else [path.parent for path in folder.glob(f"version_*/{STUDY}")]
    numbered = {int(path.name[8:]): path for path in studies if path.name[8:].isdigit()}
    newest = numbered[max(numbered)] if numbered else None
    if newest is not None:
        check_extends(newest / STUDY, plan)
    return newest
