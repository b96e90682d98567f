"""The command ``report``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from regularization.cli.console import configure_logging
from regularization.errors import UserError
from regularization.study.config import Study
from regularization.training.parser import Parser


def make_parser() -> Parser:
    """The folders and options of ``report``."""
    parser = Parser(prog="regularization report", description="Rebuilds the report of a study, or compares any runs.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="A study's folder, or folders of runs.")
    parser.add_argument("--baseline", type=str | None, default=None, help="The arm that the others are compared with.")
    parser.add_argument(
        "--output",
        type=Path | None,
        default=None,
        help="The folder to write the report to, created if needed. By default, that of the study, or the first one.",
    )
    return parser


def report(args: list[str]) -> None:
    """Rebuilds a study's report, or makes one from any finished runs."""
    options = make_parser().parse_args(args)
    import yaml

    from regularization.runs.directory import created_folder
    from regularization.study.analysis.conclusion import Context
    from regularization.study.closing import STUDY, conclude, write_answer
    from regularization.study.found_runs import common_objective, single_study

    # Called here because Lightning sets its log levels when it is imported, which only the imports above have done.
    configure_logging()
    folders = _existing(options.folders)
    if len(folders) == 1 and (only := single_study(folders[0])) is not None:
        folders = [only]
    path = folders[0] / STUDY
    record = yaml.safe_load(path.read_text(encoding="utf-8")) if len(folders) == 1 and path.is_file() else {}
    objective, remark = ("", "") if record else common_objective(folders)
    study = Study(**record["study"]) if record else Study(base="", arms={"": None}, objective=objective)
    context = Context(options.baseline or record.get("baseline"), command=record.get("command", ""))
    conclusion, runs = conclude(folders, study, context, record.get("compared"))
    conclusion = replace(conclusion, remarks=[*conclusion.remarks, *([remark] if remark else [])])
    if options.baseline is not None and conclusion.baseline is None:
        names = ", ".join(sorted(arm.name for arm in conclusion.arms))
        raise UserError(f"--baseline: there is no arm {options.baseline}, there are {names}")
    output = created_folder(options.output or folders[0])
    write_answer(conclusion, runs, study, output, record.get("command", ""))


def _existing(folders: Sequence[Path]) -> list[Path]:
    """The folders without duplicates; different spellings of one path count once."""
    paths = [Path(folder).expanduser() for folder in folders]
    for folder in paths:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    return list({folder.resolve(): folder for folder in paths}.values())
