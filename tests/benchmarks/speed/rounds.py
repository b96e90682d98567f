"""Rounds of measurements in turn, so that changes in the speed of the machine affect all of them alike."""

import sys
from collections.abc import Callable, Mapping

Values = dict[str, list[float]]


def alternately(rounds: int, measures: Mapping[str, Callable[[], float]]) -> Values:
    """The values of every measure by round, taken in the order A B A B …; prints the progress to stderr."""
    values: Values = {name: [] for name in measures}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            values[name].append(measure())
            print(f"  {number}/{rounds}  {name}: {values[name][-1]:.4g}", file=sys.stderr, flush=True)
    return values
