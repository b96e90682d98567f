"""Seconds to an answer: how much training it takes until a study of λ has an answer, and how often that is wrong.

No network is trained. A stored table holds the runs of a study that was trained in full: accuracy and training time of
each λ with each seed (docs/measurements/runs, written by tests.benchmarks.runs). A study of the table uses its seeds in
random order. A strategy asks for the run of a λ with a seed and pays its recorded seconds:

  until: decided       our own: the run that is likely to decide the study soonest, after two or three of each λ
  …, seeds: 1          the same after one run of each λ
  grid                 every λ with every seed; judged once
  grid, until decided  the same seed by seed, judged at the looks of until: decided
  TPE                  Optuna's TPESampler chooses λ, after one run of each; the baseline is trained with every seed
                       that a λ has; judged at the looks of until: decided
  Hyperband            Optuna's HyperbandPruner; its resource is the number of seeds of a λ, because tables have no
                       accuracies of single epochs
  WilcoxonPruner       Optuna's WilcoxonPruner; its instances are seeds

The two pruners train the baseline first, with all seeds, and end by themselves; they are judged once. Neither they nor
TPE claim anything: the same analysis, that of sweep, judges the runs that each strategy has paid for.

Columns:

  decided          share of studies that end with an answer (a λ helps, or none helps by more than 0.5 points)
  trials           median number of runs, those of undecided studies included
  training seconds median of the sum of their recorded training times: the wall time with one worker
  wall time        median from the first start to the last end; a free worker gets the next run at once, and starting
                   processes takes no time
  of the grid      training seconds divided by those of the grid
  good advice      share of studies that recommend a λ whose gain, by all runs of the table, is within 0.15 points of
                   the best one
  wrong            share of studies that claim anything that all runs of the table contradict. The table is the truth
                   here, and a study that uses all of its seeds can hardly contradict it
  false claims …   share of studies that claim an effect where there is none: residuals of the table without the effects
                   of λ, with random signs by seed, for λ with 8 seeds that did not collapse; empty where there are none
"""

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna

from tests.benchmarks.answer import simulated
from tests.benchmarks.answer.page import markdown
from tests.benchmarks.answer.rates import measure
from tests.benchmarks.answer.strategies import STRATEGIES
from tests.benchmarks.answer.tables import FOLDER, RunTable, read

# Tables with one λ; the runs of quickstart and small_cifar10 were themselves chosen by a strategy.
TABLES = (
    "small_cifar10_fixed",
    "images_15000",
    "lambda_curve",
    "images_5000",
    "images_1000",
    "images_500",
    "quickstart_fixed",
)


def parser() -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.answer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("tables", nargs="*", metavar="TABLE", help=f"names or files; default: {', '.join(TABLES)}")
    result.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="NAME")
    result.add_argument("--studies", type=int, help="per table and strategy; default: 20, or 2000 with --simulated")
    result.add_argument("--seeds", type=int, default=10, help="the largest number of seeds of a study; default: 10")
    result.add_argument("--workers", type=int, nargs="+", default=[2], help="for the wall time; default: 2")
    result.add_argument("--to", type=Path, metavar="FOLDER", help="writes answer.md and answer.json")
    result.add_argument(
        "--simulated",
        action="store_true",
        help="instead, simulates studies with the residuals of the given tables, or else of those in "
        "tests/benchmarks/residuals, around means of several scenarios: error rates and power, also of fixed designs "
        "that are extended",
    )
    return result


def main(args: Sequence[str] | None = None) -> None:
    """The command."""
    options = parser().parse_args(args)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # WilcoxonPruner warns if an arm lacks seeds.
    warnings.filterwarnings("ignore", category=UserWarning, module="optuna")
    if options.simulated:
        found = [_read(name).residuals() for name in options.tables]
        simulated.show_all(options.studies or 2000, [simulator for simulator in found if simulator])
        return
    rows = []
    for name in options.tables or TABLES:
        table = _read(name)
        for strategy in options.strategies:
            print(f"{table.name}: {strategy}", file=sys.stderr, flush=True)
            rows.append(measure(table, strategy, options.studies or 20, options.seeds, options.workers))
    text = markdown(rows)
    print(text)
    if options.to is not None:
        options.to.mkdir(parents=True, exist_ok=True)
        (options.to / "answer.md").write_text(text)
        content = {"rows": [dataclasses.asdict(row) for row in rows]}
        (options.to / "answer.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(name: str) -> RunTable:
    return read(Path(name) if name.endswith(".csv.gz") else FOLDER / f"{name}.csv.gz")
