"""Studies that compare arms by another metric than the accuracy."""

import re
from dataclasses import replace

import numpy as np
import pytest

from regularization.models.objective import Objective
from regularization.study.analysis.arms import sample_of
from regularization.study.analysis.comparison import _pool
from regularization.study.analysis.conclusion import Context, draw_conclusion
from regularization.study.analysis.verdicts import Answer
from regularization.study.results import Result
from tests.study.analysis.synthetic import results_on_axis

OWN = {"val_accuracy": "max:val_mine", "val_loss": "min:val_cost"}


def with_metric(results: list[Result], metric: str, accuracies_to: float) -> list[Result]:
    """The results with the error rate × ``accuracies_to`` as a metric, and the same accuracy everywhere."""
    return [
        replace(
            result,
            accuracy=0.5,
            row={**result.row, "val_accuracy": 0.5, metric: accuracies_to * (1 - result.accuracy)},
        )
        for result in results
    ]


def test_a_loss_is_compared_as_an_accuracy_is() -> None:
    runs, study = results_on_axis([0, 2, 3, -1], seeds=4)
    by_accuracy = draw_conclusion(runs, study, Context("λ=0"))
    losses = with_metric(runs, "val_loss", accuracies_to=1.0)
    by_loss = draw_conclusion(losses, replace(study, objective="val_loss"), Context("λ=0"))
    assert by_loss.answer == by_accuracy.answer == Answer.HELPS
    assert by_loss.chosen.name == by_accuracy.chosen.name
    for arm, other in zip(by_loss.arms, by_accuracy.arms, strict=True):
        assert arm.mean == pytest.approx(1 - other.mean)
        assert (arm.difference, *arm.interval) == pytest.approx((other.difference, *other.interval))
        assert arm.verdict == other.verdict
        assert arm.effects.keys() == {"val_accuracy", "clean_accuracy"} if arm.effects else True
    assert by_loss.gain == pytest.approx(by_accuracy.gain)
    assert by_loss.curve is not None
    assert by_accuracy.curve is not None
    assert np.allclose(by_loss.curve.mean, 1 - by_accuracy.curve.mean)
    assert np.allclose(by_loss.curve.low, 1 - by_accuracy.curve.high)
    assert np.allclose(by_loss.curve.gain.low, by_accuracy.curve.gain.low)
    assert by_loss.curve.best == by_accuracy.curve.best


def test_the_scale_of_a_loss_does_not_matter() -> None:
    """With ten times the loss and ten times the resolution, the answer and the curve are the same."""
    runs, study = results_on_axis([0, 2, 3, -1], seeds=4)
    one, ten = (
        draw_conclusion(
            with_metric(runs, "val_loss", scale),
            replace(study, objective="val_loss", resolution=0.5 * scale),
            Context("λ=0"),
        )
        for scale in (1.0, 10.0)
    )
    assert one.curve is not None
    assert ten.curve is not None
    assert np.allclose(10 * one.curve.mean, ten.curve.mean)
    assert ten.curve.best == one.curve.best
    assert ten.chosen.name == one.chosen.name


@pytest.mark.parametrize(
    ("metric", "gains", "sentence"),
    [
        ("val_loss", "It lowers the validation loss by 0.0", "Weight decay helps: use λ=0.1. "),
        ("val_calibration_error", "It lowers the validation calibration error by ", " points compared with"),
        (
            "val_loss",
            "No λ that was tried helps by more than 0.005 in validation loss",
            "end at -0.0",
        ),
        ("val_loss", "λ=0.1 reaches 0.", " validation loss and λ=0 0."),
    ],
)
def test_sentences(metric: str, gains: str, sentence: str) -> None:
    effects: dict[str, list[float]] = {"It": [0, 2, 3], "No": [0, -5, -6], "λ=": [0, 0.1, 0.4]}
    runs, study = results_on_axis(effects[gains[:2]], seeds=2 if gains.startswith("λ") else 4)
    study = replace(study, objective=metric)
    conclusion = draw_conclusion(with_metric(runs, metric, 1.0), study, Context("λ=0"))
    assert gains in conclusion.sentence, conclusion.sentence
    assert sentence in conclusion.sentence, conclusion.sentence
    assert not any("collapse" in remark for remark in conclusion.remarks)


def with_copies(results: list[Result], scale: float = 1.0) -> list[Result]:
    """The results with a loss, and with copies of accuracy and loss × ``scale`` under names that are not predefined."""
    return [
        replace(
            result,
            row={
                **result.row,
                "val_loss": 2.0 - result.accuracy,
                "val_mine": scale * result.accuracy,
                "val_cost": scale * (2.0 - result.accuracy),
            },
        )
        for result in results
    ]


@pytest.mark.parametrize("gains", [[0, 2, 3, -1], [0, 0.1, 0.2, 0.05], [0, -2, -3, -5]])
@pytest.mark.parametrize("metric", OWN)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_metric_of_ones_own_is_compared_as_the_one_that_it_equals(
    metric: str, scale: float, gains: list[float]
) -> None:
    """This also holds for a unit and a resolution that are a hundred times as large."""
    runs, study = results_on_axis(gains, seeds=4, noise=0.003)
    known = draw_conclusion(with_copies(runs), replace(study, objective=metric), Context("λ=0"))
    own_study = replace(study, objective=OWN[metric], resolution=scale * study.resolution)
    own = draw_conclusion(with_copies(runs, scale), own_study, Context("λ=0"))
    assert own.answer == known.answer
    assert own.chosen.name == known.chosen.name
    assert own.seeds_needed == known.seeds_needed
    assert own.gain == pytest.approx(scale * known.gain)
    for mine, other in zip(own.arms, known.arms, strict=True):
        assert mine.mean == pytest.approx(scale * other.mean)
        assert mine.verdict == other.verdict
        assert (mine.difference, *mine.interval) == pytest.approx(
            [scale * value for value in (other.difference, *other.interval)]
        )
    assert own.curve is not None
    assert known.curve is not None
    assert np.allclose(own.curve.mean, scale * known.curve.mean)
    assert np.allclose(own.curve.gain.low, scale * known.curve.gain.low)
    assert own.curve.best == known.curve.best
    # Only how numbers and the metric are written differs.
    words = {re.sub(r"[-+\d.%]+| points| the| in [a-z_ ]*(?= compared)", "", it.sentence) for it in (known, own)}
    assert len({text.replace(own.chosen.objective.name, known.chosen.objective.name) for text in words}) == 1


def test_how_a_metric_of_ones_own_is_written() -> None:
    runs, study = results_on_axis([0, 2, 3], seeds=4)
    runs = with_copies(runs, scale=1000.0)
    study = replace(study, objective="max:val_mine", resolution=500)
    conclusion = draw_conclusion(runs, study, Context("λ=0"))
    assert "It gains 29.2 of val_mine over λ=0 (95% interval +28.3 to +30, adjusted p < " in conclusion.sentence
    assert "points" not in conclusion.sentence
    assert "%" not in conclusion.sentence.replace("95%", "")
    none = draw_conclusion(runs, replace(study, resolution=50_000), Context("λ=0.1"))
    assert "helps by more than 500 in val_mine compared with" in none.sentence


def test_the_threshold_of_collapse_is_that_of_accuracies_alone() -> None:
    """A loss that is higher by more than 0.1 is no collapse, neither in the report nor in the choice of trials."""
    runs, study = results_on_axis([0, 0.5, -30, -40], seeds=4)
    names = list(dict.fromkeys(run.arm for run in runs))
    by_arm = [[run for run in with_copies(runs) if run.arm == name] for name in names]
    pools = {
        option: _pool(sample_of(by_arm, Objective.parse(option)), 0, blocked=True)
        for option in ("val_accuracy", "val_loss", "max:val_mine", "min:val_cost")
    }
    assert pools == {
        "val_accuracy": [0, 1],
        "val_loss": [0, 1, 2, 3],
        "max:val_mine": [0, 1, 2, 3],
        "min:val_cost": [0, 1, 2, 3],
    }
    losses = draw_conclusion(with_copies(runs), replace(study, objective="val_loss"), Context("λ=0"))
    assert not any("collapses" in remark for remark in losses.remarks)
