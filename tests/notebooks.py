"""Executes a notebook without Jupyter, and keeps what its cells print and draw.

``python -m tests.notebooks docs/notebooks/regularization.ipynb`` replaces the outputs in the file.
"""

import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib
from matplotlib import pyplot

Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def execute(notebook: Notebook) -> dict[str, Any]:
    """Executes the cells in their order and replaces their outputs; returns the variables that they leave."""
    variables: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        cell["outputs"] = _outputs(source(cell), variables)
        cell["execution_count"] = number
    return variables


def _outputs(code: str, variables: dict[str, Any]) -> list[dict[str, Any]]:
    """Executes a cell; returns what it drew and then what it printed."""
    outputs: list[dict[str, Any]] = []

    def show() -> None:
        outputs.append({"output_type": "display_data", "data": {"image/png": _png()}, "metadata": {}})

    printed = io.StringIO()
    with matplotlib.rc_context({"backend": "agg"}), redirect_stdout(printed), patch.object(pyplot, "show", show):
        exec(compile(code, "cell", "exec"), variables)
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    return outputs


def _png() -> str:
    file = io.BytesIO()
    pyplot.savefig(file, format="png", dpi=80)
    pyplot.close("all")
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        content = read(Path(name))
        execute(content)
        Path(name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
