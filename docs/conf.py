"""The documentation site: ``pip install -e '.[docs]' && sphinx-build -W docs site``."""

import re
from typing import Any

project = "regularization"
author = "the authors of regularization"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "regularization"
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
exclude_patterns = ["measurements"]


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escapes the bars of |w| outside of code: to reStructuredText they are substitutions."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[number] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)


def setup(app: Any) -> None:
    """Registers the hook."""
    app.connect("autodoc-process-docstring", escape_bars)
