"""Rounds: things measured in turn, so that what the machine does meanwhile happens to all of them."""

import sys
from collections.abc import Callable, Mapping

Values = dict[str, list[float]]


def alternately(rounds: int, measures: Mapping[str, Callable[[], float]]) -> Values:
    """What every measure gave in each round, A B A B …; says on stderr how far it is."""
    values: Values = {name: [] for name in measures}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            values[name].append(measure())
            print(f"  {number}/{rounds}  {name}: {values[name][-1]:.4g}", file=sys.stderr, flush=True)
    return values
