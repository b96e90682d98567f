"""The rules of docs/architecture.md: imports go downward, and modules and functions stay short."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "regularization"
# From top to bottom: a folder imports only from itself and from the folders below it.
LAYERS = ["cli", "study", "training", "inference", "callbacks", "models", "optim", "runs", "data", "internals"]
# The public names and the errors may be imported from any layer.
ROOT = {"__init__", "__main__", "api", "errors"}
MODULES = sorted(PACKAGE.rglob("*.py"))

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of this package that a module imports, anywhere in its code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from [node.module] if "." in node.module else [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_root_has_four_modules_and_the_layers() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_folder_has_a_dozen_modules_at_most(layer: str) -> None:
    assert len([path for path in (PACKAGE / layer).glob("*.py") if path.stem != "__init__"]) <= 12


@each_module
def test_imports_go_downward(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0]
    if layer not in LAYERS:
        return
    for module in imported(ast.parse(path.read_text())):
        package, _, rest = module.partition(".")
        target = rest.partition(".")[0]
        if package == "regularization" and target in LAYERS:
            assert LAYERS.index(target) >= LAYERS.index(layer), f"{layer} imports {module}"
        assert target != "api" or package != "regularization"


@each_module
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # Neither a signature nor a docstring makes a function hard to follow.
            statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0
            assert lines <= 25, f"{node.name} has {lines} lines"
