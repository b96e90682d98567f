"""What ``sweep`` returns, for scripts and notebooks."""

import csv
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import yaml

import regularization
from regularization import UserError
from regularization.models.objective import ACCURACY
from regularization.study import results as study_results
from regularization.study.analysis.conclusion import Context, draw_conclusion
from regularization.study.report.answer import StudyAnswer
from regularization.study.report.tables import write_table
from tests.conftest import CONFIGS
from tests.study.analysis.synthetic import results_on_axis


@pytest.fixture
def answer() -> StudyAnswer:
    runs, study = results_on_axis([0, 2, -5])
    conclusion = draw_conclusion(runs, study, Context("λ=0"))
    folder = Path("runs/study<1>/version_0")
    folder.mkdir(parents=True)
    write_table(runs, folder / study_results.TABLE, ACCURACY)
    return StudyAnswer(**vars(conclusion), study=study, folder=folder)


def test_a_short_repr(answer: StudyAnswer) -> None:
    assert repr(answer) == f"<StudyAnswer of 3 arms in {answer.folder}: {answer.sentence}>"
    assert answer.report == answer.folder / "report.html"


def test_a_notebook_shows_a_table(answer: StudyAnswer) -> None:
    html = ElementTree.fromstring(f"<div>{answer._repr_html_()}</div>")
    paragraph, table = html
    assert paragraph.text == answer.sentence
    rows = [[cell.text for cell in row] for row in table]
    assert [row[0] for row in rows[1:]] == [arm.name for arm in answer.arms]
    assert rows[1][3:] == [None, None, None]
    assert rows[2][3] == f"{100 * answer.arms[1].difference:+.2f}"
    assert [row[5] for row in rows[2:]] == ["helps", "hurts"]


@pytest.mark.parametrize(("suffix", "beginning"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_figure_is_written_in_any_format(answer: StudyAnswer, suffix: str, beginning: bytes) -> None:
    figure = answer.plot()
    assert figure.axes[0].get_xlabel() == "weight decay λ"
    figure.savefig(f"answer.{suffix}")
    assert Path(f"answer.{suffix}").read_bytes().startswith(beginning)


def test_one_row_per_trial(answer: StudyAnswer, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import pandas as pd
    except ImportError:
        # Without pandas, a substitute for its function checks at least which table is read.
        pd = ModuleType("pandas")
        monkeypatch.setattr(pd, "read_csv", lambda path: list(csv.DictReader(path.open(newline=""))), raising=False)
        monkeypatch.setitem(sys.modules, "pandas", pd)
        rows = answer.frame()
    else:
        rows = answer.frame().to_dict("records")
    accuracies = [accuracy for arm in answer.arms for accuracy in arm.accuracies]
    assert [float(row["val_accuracy"]) for row in rows] == accuracies
    assert {row["arm"] for row in rows} == {arm.name for arm in answer.arms}


def test_without_pandas(answer: StudyAnswer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"^frame\(\) needs pandas: pip install 'regularization\[pandas\]'$"):
        answer.frame()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((CONFIGS.parent / "CITATION.cff").read_text())
    project = tomllib.loads((CONFIGS.parent / "pyproject.toml").read_text())["project"]
    assert citation["version"] == regularization.__version__
    assert (citation["title"], citation["abstract"]) == (project["name"], project["description"])
    assert citation["license"] == project["license"]
