"""The printed table."""

from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.speed.rows import Row, counted

WIDTH = 160  # characters in a file or a pipe, for which rich would use 80


def show(found: dict[str, Any], rows: list[Row]) -> None:
    """Prints machine, versions and rows."""
    machine = found["machine"]
    gpu = machine["gpu"] or "no GPU"
    print_wide(f"{machine['cpu']}, {machine['cores']} cores, {counted(machine['threads'], 'thread')}, {gpu}")
    print_wide(f"load {machine['load']:g} before the start, {found['date']}, on {found['settings']['device']}")
    print_wide(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    print_wide(table(rows))


def print_wide(content: str | Table) -> None:
    """Prints a text or a table, as wide as the terminal or, in a file, ``WIDTH``."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(content)


def table(rows: list[Row]) -> Table:
    """One line per row, with its note below if it differs from that of the row before."""
    made = Table("part", "what", show_lines=False)
    for name in ("value", "how", "compared with", "its value", "ratio", "target", ""):
        made.add_column(name, justify="right" if "value" in name or name == "ratio" else "left", overflow="fold")
    before = Row("")
    for row in rows:
        if row.part != before.part:
            made.add_section()
        made.add_row(*cells(row, before))
        before = row
    return made


def cells(row: Row, before: Row) -> list[str]:
    """The texts of ``row``, which comes after ``before``."""
    met = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    what = f"{row.what}\n[dim]{row.note}[/]" if row.note != before.note and row.note else row.what
    other = number(row.against_value)
    target = str(row.target) if row.target else ""
    return [row.part, what, f"{number(row.value)} {row.unit}", row.how, row.against, other, ratio, target, met]


def number(value: float | None) -> str:
    """The value with four significant digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
