"""The documentation site: ``pip install -e '.[docs]' && sphinx-build -W docs site``."""

import json
import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

project = "regularization"
html_show_copyright = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "regularization"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Otherwise the fields of a named tuple would be described twice.
napoleon_use_ivar = True
exclude_patterns = ["measurements"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
# Browsers draw MathML themselves; Sphinx's own renderer would load a script from the network.
html_math_renderer = "mathml"


def escape_bars(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escapes the bars of |w| outside of code: to reStructuredText they are substitutions."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[number] = "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in parts)


def read_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Turns a notebook, with the outputs that it contains, into Markdown."""
    if app.env.doc2path(docname).suffix != ".ipynb":
        return
    parts = ["---\nmyst:\n  enable_extensions: [dollarmath]\n---"]
    for cell in json.loads(source[0])["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            text = "\n\n".join([f"```python\n{text}\n```", *map(to_markdown, cell["outputs"])])
        parts.append(text)
    source[0] = "\n\n".join(parts)


def to_markdown(output: dict[str, Any]) -> str:
    """One output of a cell: what was printed, or a picture."""
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    return f'<img alt="" src="data:image/png;base64,{output["data"]["image/png"]}">'


def visit_math(self: Any, node: Any) -> None:
    """Writes a formula as MathML."""
    self.body.append(tex2mathml(node.astext(), as_block=node.tagname == "math_block"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Registers the hooks."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("source-read", read_notebook)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
