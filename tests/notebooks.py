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
    with matplotlib.rc_context({"backend": "agg"}):
        for number, cell in enumerate(cells, start=1):
            printed, pictures = io.StringIO(), list[str]()
            with redirect_stdout(printed), patch.object(pyplot, "show", lambda: pictures.append(_png())):
                exec(compile(source(cell), f"cell {number}", "exec"), variables)
            cell["execution_count"] = number
            cell["outputs"] = _outputs(printed.getvalue(), pictures)
    return variables


def _png() -> str:
    file = io.BytesIO()
    pyplot.savefig(file, format="png", dpi=80)
    pyplot.close("all")
    return base64.b64encode(file.getvalue()).decode()


def _outputs(text: str, pictures: list[str]) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = [
        {"output_type": "display_data", "data": {"image/png": picture}, "metadata": {}} for picture in pictures
    ]
    printed = {"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)}
    return [*shown, *([printed] if text else [])]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        content = read(Path(name))
        execute(content)
        Path(name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
