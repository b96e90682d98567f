"""The command: measures the given parts on a device, prints a table and writes it as JSON."""

import argparse
import dataclasses
import json
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks.speed import __doc__ as purpose
from tests.benchmarks.speed import compare
from tests.benchmarks.speed.machine import about
from tests.benchmarks.speed.rows import Row, not_run
from tests.benchmarks.speed.settings import Settings
from tests.benchmarks.speed.table import print_wide, show

# The parts of each device, in order. Each part is a module with a function measure(settings), which returns rows.
PARTS = ("seed", "path", "overhead", "start", "fast", "speedrun", "precision", "growth", "sweep", "gpu", "trials")
BY_DEVICE = {"cpu": PARTS[:-1], "cuda": ("seed", "overhead", "start", "growth", "gpu", "trials")}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m tests.benchmarks.speed", description=purpose)
    made.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; or all")
    made.add_argument("--json", type=Path, metavar="FILE", help="where the table also goes, as JSON")
    made.add_argument("--compare", type=Path, metavar="FILE", help="an earlier table as JSON, to show what has changed")
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="how often all is measured, in turn")
    made.add_argument("--seeds", type=int, default=3, metavar="N", help="how many seeds a config is run with")
    made.add_argument("--whole", action="store_true", help="speedrun: also train, a quarter of an hour a seed")
    made.add_argument("--device", choices=list(BY_DEVICE), default="cpu")
    made.add_argument("--quick", action="store_true", help="few steps, to see that it works: no numbers to keep")
    return made


def main(args: list[str]) -> None:
    """Measures, prints and writes; exit code 1 if a part could not be measured."""
    asked = parser().parse_args(args)
    if unknown := set(asked.parts) - set(PARTS):
        parser().error(f"there is no part {unknown.pop()}: {', '.join(PARTS)}")
    earlier = compare.read(asked.compare) if asked.compare else None
    settings = Settings(asked.rounds, asked.seeds, asked.device, asked.quick, asked.whole)
    found: dict[str, Any] = about(settings)
    rows: list[Row] = []
    failed: list[str] = []
    for part in asked.parts or BY_DEVICE[asked.device]:
        print(part, file=sys.stderr, flush=True)
        rows += [dataclasses.replace(row, part=part) for row in attempted(part, settings, failed.append)]
        if asked.json:
            # Written after every part: all parts take long, and an interruption must not lose what is measured.
            text = json.dumps(found | {"rows": [row.as_dict() for row in rows]}, indent=2, ensure_ascii=False)
            asked.json.write_text(text + "\n", encoding="utf-8")
    show(found, rows)
    if earlier is not None:
        print_wide(f"compared with {asked.compare}, {earlier['date']}, {earlier['machine']['cpu']}")
        print_wide(compare.table(compare.changes(earlier["rows"], rows)))
    if failed:
        raise SystemExit(1)


def attempted(part: str, settings: Settings, failed: Callable[[str], None]) -> list[Row]:
    """The rows of a part. If it fails, one row with the error, so that the other parts are still measured."""
    measure: Callable[[Settings], list[Row]] = import_module(f"tests.benchmarks.speed.{part}").measure
    try:
        return measure(settings)
    except Exception as error:
        traceback.print_exc()
        failed(part)
        return [not_run(part, str(error).partition("\n")[0])]
