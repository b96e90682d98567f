"""``--compare OLD.json``: what has become faster or slower since an earlier measurement.

Absolute values depend on the machine and vary from day to day. A row is compared by its ratio to what was measured
beside it if it has one, else by its value.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.speed.rows import Row
from tests.benchmarks.speed.table import number


@dataclass(frozen=True)
class Change:
    """One row of both measurements.

    Attributes:
        part: The part it belongs to.
        what: What was measured.
        kind: ``ratio`` to what was measured beside it, or the unit of the value.
        old: The earlier value or ratio.
        new: The current value or ratio.
        spread: Half the range of the rounds over their median, the larger one of the two measurements.
    """

    part: str
    what: str
    kind: str
    old: float
    new: float
    spread: float

    @property
    def ratio(self) -> float:
        """``new`` over ``old``."""
        return self.new / self.old

    @property
    def notable(self) -> bool:
        """Whether it has changed by more than the rounds differ."""
        return abs(self.ratio - 1) > self.spread


def changes(old: Iterable[Mapping[str, Any]], rows: Iterable[Row]) -> list[Change]:
    """The rows that both measurements have, in the order of the new one."""
    before = {_key(row): row for row in old if row["value"]}
    found = []
    for row in rows:
        new = row.as_dict()
        if new["value"] and (earlier := before.get(_key(new))):
            by_ratio = bool(new["ratio"] and earlier["ratio"])
            kind, name = ("ratio", "ratio") if by_ratio else (new["unit"], "value")
            spread = max(_spread(new["values"]), _spread(earlier["values"]))
            found.append(Change(row.part, row.what, kind, earlier[name], new[name], spread))
    return found


def read(path: Path) -> dict[str, Any]:
    """A table that ``--json`` wrote."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def table(found: Sequence[Change]) -> Table:
    """One line per row; ``*`` marks a change that is larger than the spread."""
    made = Table("part", "what", "compared by")
    for name in ("before", "now", "now/before", "spread"):
        made.add_column(name, justify="right")
    for it in found:
        mark = "*" if it.notable else " "
        cells = (number(it.old), number(it.new), f"{it.ratio:.3f}{mark}", f"±{it.spread:.1%}")
        made.add_row(it.part, it.what, it.kind, *cells)
    return made


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["part"], row["what"], row["against"]


def _spread(values: Sequence[float]) -> float:
    ordered = sorted(values)
    middle = ordered[len(ordered) // 2] if ordered else 0.0
    return (ordered[-1] - ordered[0]) / 2 / middle if middle else 0.0
