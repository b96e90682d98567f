"""How much training each strategy needs to answer a stored table, and how often the answer is wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regularization.study.analysis.verdicts import Answer
from tests.benchmarks.answer.claims import false_claim
from tests.benchmarks.answer.replay import Outcome, play
from tests.benchmarks.answer.strategies import STRATEGIES
from tests.benchmarks.answer.tables import RunTable, StudyRuns, draw_null


@dataclass(frozen=True)
class Row:
    """One strategy on one table. Costs are medians over studies, including those that end undecided.

    Attributes:
        table: Name of the table.
        arms: Number of its arms.
        seeds: The largest number of seeds of a study.
        strategy: Name of the strategy.
        studies: Number of studies.
        helps, none_helps, undecided: Shares of studies with this answer, with one worker.
        trials: Number of runs, with one worker.
        training_seconds: Sum of their training times, with one worker.
        wall: Time from the first start to the last end, by the number of workers.
        wrong: Share of studies that claim anything that all runs of the table contradict.
        close: Share of studies that recommend an arm whose gain is within 0.15 points of the best one.
        false_claims: Share of studies without any effect that claim one; None if arms have too few seeds.
    """

    table: str
    arms: int
    seeds: int
    strategy: str
    studies: int
    helps: float
    none_helps: float
    undecided: float
    trials: float
    training_seconds: float
    wall: dict[int, float]
    wrong: float
    close: float
    false_claims: float | None


def measure(table: RunTable, strategy: str, studies: int, most: int, workers: Sequence[int]) -> Row:
    """Plays studies that are drawn from a table.

    Args:
        table: The table.
        strategy: Name of the strategy.
        studies: Number of studies; every strategy gets the same ones.
        most: The largest number of seeds of a study.
        workers: Numbers of workers.
    """
    generator = np.random.default_rng(0)
    drawn = [table.draw(most, generator) for _ in range(studies)]
    alone = _play_all(drawn, strategy, 1)
    wall = {count: _wall(alone if count == 1 else _play_all(drawn, strategy, count)) for count in workers}
    answers = Counter(outcome.answer for outcome in alone)
    gains = table.runs.gains
    return Row(
        table=table.name,
        arms=len(table.arms),
        seeds=drawn[0].accuracies.shape[1],
        strategy=strategy,
        studies=studies,
        helps=answers[Answer.HELPS] / studies,
        none_helps=answers[Answer.NONE_HELPS] / studies,
        undecided=answers[Answer.UNDECIDED] / studies,
        trials=float(np.median([len(outcome.runs) for outcome in alone])),
        training_seconds=round(float(np.median([outcome.seconds for outcome in alone])), 1),
        wall=wall,
        wrong=float(np.mean([outcome.wrong(gains) for outcome in alone])),
        close=float(np.mean([outcome.close(gains) for outcome in alone])),
        false_claims=_false_claims(table, strategy, studies, most),
    )


def _wall(outcomes: Sequence[Outcome]) -> float:
    return round(float(np.median([outcome.wall for outcome in outcomes])), 1)


def _play_all(drawn: Sequence[StudyRuns], strategy: str, workers: int) -> list[Outcome]:
    create = STRATEGIES[strategy]
    return [play(runs, create(runs.available, runs.start, index), workers) for index, runs in enumerate(drawn)]


def _false_claims(table: RunTable, strategy: str, studies: int, most: int) -> float | None:
    if (simulator := table.residuals()) is None:
        return None
    generator = np.random.default_rng(1)
    drawn = [draw_null(simulator, most, table.runs.start, generator) for _ in range(studies)]
    outcomes = _play_all(drawn, strategy, 1)
    return float(np.mean([false_claim(outcome.comparisons, drawn[0].gains) for outcome in outcomes]))
