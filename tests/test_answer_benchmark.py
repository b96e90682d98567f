"""Replays of stored tables of runs: the cost of a study, and the same verdict as that of ``sweep``."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from regularization.study.analysis.conclusion import Context, draw_conclusion
from regularization.study.config import Study
from tests.benchmarks import runs as run_tables
from tests.benchmarks.answer import command, replay, simulated
from tests.benchmarks.answer.simulator import load
from tests.benchmarks.answer.strategies import STRATEGIES
from tests.benchmarks.answer.tables import FOLDER, StudyRuns, draw_null, read
from tests.study.analysis.synthetic import make_results


def study_of(accuracies: ArrayLike, seconds: ArrayLike = 1.0) -> StudyRuns:
    table = np.array(accuracies, dtype=float)
    return StudyRuns(table, np.broadcast_to(np.array(seconds, dtype=float), table.shape), np.zeros(len(table)))


def play(runs: StudyRuns, strategy: str, workers: int = 1) -> replay.Outcome:
    return replay.play(runs, STRATEGIES[strategy](runs.available, runs.start, 0), workers)


def in_recorded_order(name: str) -> StudyRuns:
    table = read(FOLDER / f"{name}.csv.gz")
    return table.in_order(np.arange(len(table.seeds)))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two λ with three seeds; one run is missing."""
    accuracies = {0.0: (0.70, 0.72, 0.71), 0.1: (0.75, 0.77)}
    rows = [
        {
            "arm": f"weight_decay={strength:g}",
            "stage": "final",
            "seed": seed,
            "weight_decay": strength,
            "val_accuracy": accuracy,
            "seconds": 10.0 + seed,
        }
        for strength, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    path = tmp_path / "tiny.csv.gz"
    run_tables.write(rows, path)
    return path


def test_a_grid_pays_for_every_run_once() -> None:
    runs = study_of([[0.7, 0.71], [0.72, 0.73]], seconds=[[3, 1], [2, 2]])
    alone, two = play(runs, "grid"), play(runs, "grid", workers=2)
    assert alone.runs == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert alone.seconds == alone.wall == two.seconds == 8
    # One worker: 0 to 3, 3 to 5. The other: 0 to 2, 2 to 3, and nothing is left.
    assert two.runs == [(1, 0), (0, 0), (0, 1), (1, 1)]
    assert two.wall == 5


@pytest.mark.parametrize(("name", "best"), [("quickstart", 3), ("small_cifar10", 3)])
def test_recorded_studies_are_repeated_run_by_run(name: str, best: int) -> None:
    # The tables of two studies that ``until: decided`` ended, each with two workers.
    runs = in_recorded_order(name)
    outcome = play(runs, "until: decided", workers=2)
    assert sorted(outcome.runs) == [tuple(cell) for cell in np.argwhere(runs.available)]
    assert outcome.answer == "helps"
    assert outcome.recommended == best


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_verdict_is_that_of_a_sweep(strategy: str) -> None:
    table = read(FOLDER / "small_cifar10_fixed.csv.gz")
    outcome = play(table.draw(8, np.random.default_rng(1)), strategy)
    rows = []
    for arm, name in enumerate(table.arms):
        own = outcome.sample.arms == arm
        assert outcome.sample.seeds[own].tolist() == list(range(own.sum()))
        rows += make_results(name, outcome.sample.values[own].tolist())
    conclusion = draw_conclusion(rows, Study(), Context(baseline=table.arms[0], alpha=outcome.alpha))
    assert conclusion.answer == outcome.answer
    assert conclusion.chosen.name == table.arms[outcome.recommended]


def test_a_run_that_the_table_lacks_is_not_paid_for(tiny: Path) -> None:
    table = read(tiny)
    runs = table.draw(3, np.random.default_rng(0))
    assert np.isnan(runs.accuracies).tolist() == [[False] * 3, [False, False, True]]
    for strategy in STRATEGIES:
        outcome = play(runs, strategy)
        assert len(set(outcome.runs)) == len(outcome.runs) <= 5
        assert all(runs.available[cell] for cell in outcome.runs)
    assert table.runs.gains == pytest.approx([0, 0.05])


def test_an_arm_is_pruned_when_all_of_four_seeds_are_worse() -> None:
    noise = np.array([0.0, 0.01, -0.01, 0.02, 0.0, 0.01])
    outcome = play(study_of([0.7 + noise, 0.5 + noise, 0.71 + noise]), "WilcoxonPruner")
    counts = [sum(arm == own for own, _ in outcome.runs) for arm in range(3)]
    # One-sided, four of four have p = 1/16, and three of three 1/8; the threshold is 0.1.
    assert counts == [6, 4, 6]


def test_a_study_without_an_effect_has_the_spread_of_the_table() -> None:
    residuals = read(FOLDER / "small_cifar10_fixed.csv.gz").residuals()
    assert residuals is not None
    generator = np.random.default_rng(0)
    drawn = np.concatenate([draw_null(residuals, 10, 2, generator).accuracies for _ in range(500)], axis=1)
    assert drawn.mean(axis=1) == pytest.approx(0.7, abs=5e-4)
    expected = residuals.residuals.std(axis=1, ddof=1)
    assert drawn.std(axis=1) == pytest.approx(expected, rel=1e-3)
    assert read(FOLDER / "images_500.csv.gz").residuals() is None


def test_a_table_with_several_baselines_is_refused() -> None:
    with pytest.raises(ValueError, match="one arm must have λ = 0"):
        read(FOLDER / "lr_and_lambda.csv.gz")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.csv.gz")), ids=lambda path: path.name)
def test_the_images_of_a_table_give_its_accuracies(path: Path) -> None:
    for row in run_tables.rows(path):
        correct = run_tables.unpack(row["correct"], int(row["images"]))
        accuracy = float(row["val_accuracy"])
        # The logits are kept in half precision, in which two classes may be equal; more often after a collapse.
        assert correct.mean() == pytest.approx(accuracy, abs=1e-3 if accuracy > 0.5 else 3e-3)


def test_the_command_writes_a_table_and_its_figures(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(
        [str(tiny), "--studies", "2", "--strategies", "grid", "until: decided", "--workers", "1", "2", "--to", "."]
    )
    printed = capsys.readouterr().out
    assert Path("answer.md").read_text() in printed
    assert "| `tiny`, 2 λ, up to 3 seeds | grid | " in printed
    grid, decided = json.loads(Path("answer.json").read_text())["rows"]
    assert grid["training_seconds"] == 10 + 11 + 12 + 10 + 11
    assert grid["trials"] == 5
    assert grid["false_claims"] is None
    assert decided["wall"]["1"] == decided["training_seconds"]


@pytest.mark.parametrize(("strategy", "trials"), [("until: decided", 18), ("until: decided, seeds: 1", 15)])
def test_the_recommended_strength_is_among_the_best(strategy: str, trials: int) -> None:
    """The gains of three λ are 0.91, 1.22 and 0.86 points: the first that is shown to help need not be the best."""
    table = read(FOLDER / "images_15000.csv.gz")
    generator = np.random.default_rng(0)
    outcomes = [play(table.draw(10, generator), strategy) for _ in range(20)]
    assert np.mean([outcome.close(table.runs.gains) for outcome in outcomes]) >= 0.9
    assert np.median([len(outcome.runs) for outcome in outcomes]) <= trials


def test_simulated_studies_find_a_gain_of_ten_points() -> None:
    simulator = load(simulated.FOLDER / "small_cifar10.csv")
    fixed = simulated.run_fixed(simulator, [0, 10], seeds=6, studies=40)
    assert fixed["helps"] == 1
    assert fixed["covered"] > 0.8
    decided = simulated.run_strategy(simulator, "until: decided", [0, 10], studies=3, seeds=10)
    assert decided["helps"] == decided["close to the best"] == 1
    assert decided["median trials"] < 12
    assert abs(decided["bias, points"]) < 1


def test_runs_that_are_added_to_a_table_replace_the_same_runs_and_keep_the_others() -> None:
    stored = [{"stage": "final", "arm": "a", "seed": str(seed), "val_accuracy": "0.5"} for seed in (0, 1)]
    new = [{"stage": "final", "arm": "a", "seed": seed, "val_accuracy": 0.6, "threads": 2} for seed in (1, 2)]
    rows = run_tables.merged(stored, new)
    found = {int(row["seed"]): (float(row["val_accuracy"]), row["threads"]) for row in rows}
    assert found == {0: (0.5, ""), 1: (0.6, 2), 2: (0.6, 2)}
