"""The command ``report``."""

from pathlib import Path

import yaml

from regularization.errors import UserError
from regularization.study import results
from regularization.study.conclusion import draw_conclusion
from regularization.study.config import Study
from regularization.study.pipeline import REFIT, STUDY, close
from regularization.training.parser import Parser


def make_parser() -> Parser:
    """The folders and options of ``report``."""
    parser = Parser(prog="regularization report", description="Rebuilds the report of a study, or compares any runs.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="A study's folder, or folders of runs.")
    parser.add_argument("--baseline", type=str | None, default=None, help="The arm that the others are compared with.")
    parser.add_argument("--output", type=Path | None, default=None, help="Where the report goes; the first folder.")
    return parser


def report(args: list[str]) -> None:
    """Rebuilds a study's report, or makes one from any finished runs."""
    asked = make_parser().parse_args(args)
    folders = [Path(folder) for folder in asked.folders]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}")
    kept = folders[0] / STUDY
    about = yaml.safe_load(kept.read_text()) if len(folders) == 1 and kept.is_file() else {}
    study = Study(**about["study"]) if about else Study(base="", arms={"": None})
    found = [one for one in results.find(folders, study.score) if not _is_refit(one)]
    final = [one for one in found if one.stage == "final"] or found
    baseline = asked.baseline or about.get("baseline")
    known = {one.arm for one in final}
    if asked.baseline is None and baseline not in known:
        baseline = None
    if baseline is not None and baseline not in known:
        raise UserError(f"--baseline: there is no arm {baseline}, there are {', '.join(sorted(known))}")
    place = Path(asked.output or folders[0])
    close(
        draw_conclusion(final, study, baseline, results.failures(folders)),
        found,
        study,
        place,
        about.get("command", ""),
    )


def _is_refit(result: results.Result) -> bool:
    return result.stage == REFIT
