"""Replays a study: workers ask a strategy for runs, and a stored table provides their results and costs."""

import heapq
from dataclasses import dataclass

import numpy as np

from regularization.study.analysis.comparison import Comparison, Sample
from regularization.study.analysis.verdicts import Answer
from tests.benchmarks.answer.claims import Array, false_claim, wrongly_equal
from tests.benchmarks.answer.simulator import RESOLUTION, to_sample
from tests.benchmarks.answer.strategies import Cell, Strategy
from tests.benchmarks.answer.tables import StudyRuns

# A recommended arm counts as good if its gain is this close to that of the best arm, as a fraction.
CLOSE = 0.0015


@dataclass(frozen=True)
class Outcome:
    """How a study ended.

    Attributes:
        answer: What the analysis says about the runs that were paid for.
        alpha: The level of the intervals is 1 − ``alpha``.
        comparisons: The comparison of each arm with the baseline.
        sample: The runs that were paid for.
        runs: The same runs, in the order in which they ended.
        seconds: The sum of their training times.
        wall: The time from the first start to the last end.
    """

    answer: Answer
    alpha: float
    comparisons: dict[int, Comparison]
    sample: Sample
    runs: list[Cell]
    seconds: float
    wall: float

    @property
    def recommended(self) -> int:
        """The arm with the highest lower end if one helps, the baseline if none does, else the one that looks best."""
        if self.answer == Answer.NONE_HELPS or not self.comparisons:
            return 0
        if self.answer == Answer.HELPS:
            return max(self.comparisons, key=lambda arm: np.nan_to_num(self.comparisons[arm].low, nan=-1.0))
        return max(self.comparisons, key=lambda arm: self.comparisons[arm].difference)

    def wrong(self, gains: Array) -> bool:
        """Whether the true gains contradict any claim."""
        overlooked = self.answer == Answer.NONE_HELPS and bool(gains.max() > RESOLUTION)
        return overlooked or false_claim(self.comparisons, gains) or wrongly_equal(self.comparisons, gains)

    def close(self, gains: Array) -> bool:
        """Whether the recommended arm is as good as the best one."""
        return bool(gains[self.recommended] >= gains.max() - CLOSE)


def play(runs: StudyRuns, strategy: Strategy, workers: int) -> Outcome:
    """Plays a study to its end; a worker that is free gets the next run at once.

    Starting processes and reading results takes no time here, and a run takes as long as it took when it was recorded,
    however many workers there are.
    """
    running: list[tuple[float, int, Cell]] = []
    paid: list[Cell] = []
    now, started = 0.0, 0
    while True:
        while len(running) < workers and (cell := strategy.ask()) is not None:
            heapq.heappush(running, (now + float(runs.seconds[cell]), started, cell))
            started += 1
        if not running:
            break
        now, _, cell = heapq.heappop(running)
        paid.append(cell)
        strategy.tell(cell, float(runs.accuracies[cell]))
    seconds = float(sum(runs.seconds[cell] for cell in paid))
    sample = to_sample(strategy.results)
    return Outcome(strategy.answer(), strategy.alpha, strategy.compare(), sample, paid, seconds, now)
