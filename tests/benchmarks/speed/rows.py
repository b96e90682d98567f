"""A row: one thing that was measured, and what it is compared with."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """What a row should reach.

    Attributes:
        bound: The number to be reached.
        most: Whether the bound must not be exceeded; otherwise it must be reached.
        of_ratio: Whether the target applies to the row's ratio instead of its value.
    """

    bound: float
    most: bool = False
    of_ratio: bool = False

    def __str__(self) -> str:
        return f"{'ratio ' if self.of_ratio else ''}{'≤' if self.most else '≥'} {self.bound:,g}"

    def met(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return value <= self.bound if self.most else value >= self.bound


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: What was measured.
        value: The median, unless ``how`` says otherwise; None if it was not measured.
        unit: Unit of both values.
        against: What it is compared with.
        against_value: The median of that.
        target: What it should reach.
        note: Additional information.
        how: How ``value`` was computed.
        values: The measurements that ``value`` is computed from.
        part: The part it belongs to.
    """

    what: str
    value: float | None = None
    unit: str = ""
    against: str = ""
    against_value: float | None = None
    target: Target | None = None
    note: str = ""
    how: str = ""
    values: Sequence[float] = field(default=())
    part: str = ""

    @property
    def ratio(self) -> float | None:
        """The value over what it is compared with."""
        return self.value / self.against_value if self.value is not None and self.against_value else None

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None if there is none, or if nothing was measured."""
        reached = self.ratio if self.target is not None and self.target.of_ratio else self.value
        return None if self.target is None or reached is None else self.target.met(reached)

    def as_dict(self) -> dict[str, Any]:
        """The row as a dict for JSON."""
        return {
            "part": self.part,
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "how": self.how,
            "against": self.against,
            "against_value": self.against_value,
            "ratio": self.ratio,
            "target": str(self.target) if self.target else "",
            "met": self.met,
            "note": self.note,
            "values": list(self.values),
        }


def median(
    what: str,
    values: Sequence[float],
    unit: str,
    against: str = "",
    others: Sequence[float] = (),
    target: Target | None = None,
    note: str = "",
) -> Row:
    """The row of a median, beside the median of what it is compared with."""
    other = statistics.median(others) if others else None
    how = f"median of {len(values)}"
    return Row(what, statistics.median(values), unit, against, other, target, note, how, values)


def not_run(what: str, why: str) -> Row:
    """The row of what could not be measured here."""
    return Row(what, note=f"not run: {why}")


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 thread, 2 threads."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
