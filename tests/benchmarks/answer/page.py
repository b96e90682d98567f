"""The results as a table in Markdown."""

from collections.abc import Sequence
from itertools import groupby

from tests.benchmarks.answer.rates import Row


def markdown(rows: Sequence[Row]) -> str:
    """The rows, one per table and strategy."""
    walls = list(rows[0].wall)
    head = [
        "table",
        "strategy",
        "decided",
        "trials",
        "training seconds",
        *(f"wall time, {count} worker{'s' * (count != 1)}" for count in walls),
        "of the grid",
        "good advice",
        "wrong",
        "false claims without an effect",
    ]
    lines = [head, ["---"] * len(head)]
    for _, group in groupby(rows, key=lambda row: row.table):
        own = list(group)
        grid = next((row.training_seconds for row in own if row.strategy == "grid"), None)
        lines += [_cells(row, row is own[0], grid) for row in own]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _cells(row: Row, first: bool, grid: float | None) -> list[str]:
    title = f"`{row.table}`, {row.arms} λ, up to {row.seeds} seeds" if first else ""
    return [
        title,
        row.strategy,
        f"{1 - row.undecided:.0%}",
        f"{row.trials:g}",
        f"{row.training_seconds:,.0f}",
        *(f"{seconds:,.0f} s" for seconds in row.wall.values()),
        f"{row.training_seconds / grid:.0%}" if grid else "",
        f"{row.close:.0%}",
        f"{row.wrong:.1%}",
        "" if row.false_claims is None else f"{row.false_claims:.1%}",
    ]
