"""Studies that compare arms by another metric than the accuracy."""

from dataclasses import replace

import numpy as np
import pytest

from regularization.study.analysis.conclusion import Context, draw_conclusion
from regularization.study.analysis.verdicts import Answer
from regularization.study.results import Result
from tests.study.analysis.synthetic import results_on_axis


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
    assert ten.curve.probability == one.curve.probability
    assert ten.chosen.name == one.chosen.name


@pytest.mark.parametrize(
    ("metric", "gains", "sentence"),
    [
        ("val_loss", "It lowers the validation loss by at least 0.0", "Weight decay helps: use λ=0.1. "),
        ("val_calibration_error", "It lowers the validation calibration error by at least ", " points compared with"),
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
