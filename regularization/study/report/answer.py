"""StudyAnswer: what ``regularization.sweep`` returns, for scripts and notebooks."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from regularization.errors import UserError
from regularization.study.analysis.arms import ArmSummary
from regularization.study.analysis.conclusion import Conclusion
from regularization.study.analysis.sentences import format_interval
from regularization.study.config import Study
from regularization.study.report.page import REPORT
from regularization.study.report.paper import paper_figure
from regularization.study.results import TABLE


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyAnswer(Conclusion):
    """The conclusion of a study with its folder, its table and its figure.

    Attributes:
        study: The study's config.
        folder: The folder of the study.
    """

    study: Study
    folder: Path

    @property
    def report(self) -> Path:
        """The page with all figures and tables."""
        return self.folder / REPORT

    def frame(self) -> Any:
        """All finished trials as a ``pandas.DataFrame``, one row per trial, with the columns of ``results.csv``.

        Raises:
            UserError: When pandas is not installed.
        """
        # Read from the file, because it has the trials of a search too.
        try:
            import pandas as pd
        except ImportError as error:
            raise UserError("frame() needs pandas: pip install 'regularization[pandas]'") from error
        return pd.read_csv(self.folder / TABLE)

    def plot(self) -> Figure:
        """The λ curve, or the accuracies of the arms; ``savefig`` writes it as PDF, SVG or PNG."""
        return paper_figure(self, self.study)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.arms)} arms in {self.folder}: {self.sentence}>"

    def _repr_html_(self) -> str:
        """The sentence and a table of the arms, which notebooks show."""
        objective = self.chosen.objective
        gain = "gain in points" if objective.is_fraction else "gain"
        titles = ("arm", "seeds", objective.name, gain, "95% interval", "verdict")
        head = "".join(f"<th>{title}</th>" for title in titles)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(arm))}</tr>" for arm in self.arms)
        return f"<p>{escape(self.sentence)}</p><table><tr>{head}</tr>{body}</table>"


def _cells(arm: ArmSummary) -> list[str]:
    objective = arm.objective
    cells = [arm.name, str(len(arm.results)), objective.format(arm.mean)]
    if arm.comparison is None or arm.verdict is None:
        return [*cells, "", "", ""]
    interval = format_interval(arm.comparison, objective)
    return [*cells, objective.format_difference(arm.difference), interval, str(arm.verdict.value)]
