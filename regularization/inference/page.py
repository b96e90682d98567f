"""The page of a run: one HTML file that works offline, with its curves and the results of an evaluation."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from regularization.runs import directory

PAGE = "report.html"


@dataclass(frozen=True)
class ClassScore:
    """Predictions for the images of one class.

    Attributes:
        name: The class.
        images: Number of its images.
        correct: Number of its images that were predicted correctly.
        confused_with: The wrong class that was predicted most often for them, empty if there was no error.
        confusions: How often that class was predicted.
    """

    name: str
    images: int
    correct: int
    confused_with: str
    confusions: int

    @property
    def accuracy(self) -> float:
        """Fraction of the images that was predicted correctly; not defined for a class without images."""
        return self.correct / self.images


@dataclass(frozen=True)
class PageSection:
    """The section of the page that shows an evaluation.

    Attributes:
        headline: The result in a sentence.
        scores: The score of each class.
        figures: PNG files by heading; those that do not exist are left out.
    """

    headline: str
    scores: Sequence[ClassScore]
    figures: Mapping[str, Path]


def write_page(run_dir: Path, section: PageSection | None) -> Path:
    """Writes ``report.html`` with the curves of the run and the ``section``; replaces an earlier one.

    Returns:
        The path of the page.
    """
    figures = {"Loss and accuracy by epoch": run_dir / directory.CURVES, **(section.figures if section else {})}
    loader = jinja2.PackageLoader("regularization.inference", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    scores = sorted((score for score in section.scores if score.images), key=lambda s: s.accuracy) if section else []
    page = environment.get_template("page.html.j2").render(
        title=f"{run_dir.parent.name}/{run_dir.name}",
        headline=section.headline if section else "This run was not validated.",
        scores=scores,
        figures={title: _data_url(path) for title, path in figures.items() if path.is_file()},
    )
    directory.write_text(run_dir / PAGE, page)
    return run_dir / PAGE


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
