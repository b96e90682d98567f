"""The lecture notebook: it is committed with its outputs, and its text agrees with the results of its cells."""

import json
import re
from typing import Any

import pytest

from tests.conftest import CONFIGS
from tests.notebooks import Notebook, execute, read, source

PATH = CONFIGS.parent / "docs" / "notebooks" / "regularization.ipynb"
STUDY = 'sweep("sweeps/quickstart", workers=2)'
SHORTER_STUDY = 'sweep("sweeps/quickstart", workers=2, seeds=2, until="seeds", trainer__max_epochs=2)'


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_it_is_committed_as_it_was_executed() -> None:
    cells = code_cells(read(PATH))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {output["output_type"] for cell in cells for output in cell["outputs"]} == {"stream", "display_data"}
    for cell in cells:
        pictures = [output for output in cell["outputs"] if output["output_type"] == "display_data"]
        assert len(pictures) == source(cell).count("pyplot.show()")
        if "print(" in source(cell):
            assert any(output["output_type"] == "stream" for output in cell["outputs"])


def test_it_is_small_and_names_no_place_of_a_machine() -> None:
    assert PATH.stat().st_size < 400_000
    printed = json.dumps([output.get("text") for cell in code_cells(read(PATH)) for output in cell["outputs"]])
    assert not re.search(r"(/home|/tmp|/work|/root|/Users)/", printed)


@pytest.mark.slow
def test_its_cells_find_what_it_says() -> None:
    notebook = read(PATH)
    for cell in code_cells(notebook):
        cell["source"] = source(cell).replace(STUDY, SHORTER_STUDY)
    assert any(SHORTER_STUDY in source(cell) for cell in code_cells(notebook))
    found = execute(notebook)
    difference = found["difference"]
    assert difference(found["a"], found["b"]) < 1e-6
    assert difference(found["c"], found["b2"]) < 1e-6 < 1e-3 < difference(found["c"], found["b"])
    assert difference(found["in_loss"], found["adam"]) < 1e-4 < 1e-2 < difference(found["adam"], found["adamw"])
    norms = [history["norm"][-1] for _, history in found["trained"].values()]
    assert norms == sorted(norms, reverse=True)
    validation = {
        strength: sum(history["val_accuracy"][-1] for history in histories) / len(histories)
        for strength, histories in found["finals"].items()
    }
    assert validation[0] < validation[0.03] > validation[0.1]
    assert all(history["val_accuracy"][-1] < max(history["val_accuracy"]) - 0.05 for history in found["finals"][0])
    assert "weight_decay" in found["answer"].sentence
