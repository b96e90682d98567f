"""The conclusion of a study, word for word, drawn from synthetic results."""

import math
import re
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from regularization.study.analysis.arms import common_means, summarize_arms
from regularization.study.analysis.conclusion import Conclusion, Context, draw_conclusion
from regularization.study.analysis.sentences import with_option
from regularization.study.analysis.verdicts import Answer, Verdict
from regularization.study.config import Study
from regularization.study.results import Result
from tests.study.analysis.synthetic import LAMBDA, draw_accuracies, make_results, results_on_axis

# The differences within seeds are +1, +1.1 and +0.9 points.
NONE = [0.80, 0.81, 0.79]
BETTER = [0.810, 0.821, 0.799]
COMMAND = "python -m regularization sweep --config x"


def named_arms(**accuracies: list[float]) -> tuple[list[Result], Study]:
    results = [result for arm, values in accuracies.items() for result in make_results(arm, values)]
    return results, Study(base="x", arms=dict.fromkeys(accuracies))


def conclude(study: tuple[list[Result], Study], baseline: str | None, **context: Any) -> Conclusion:
    conclusion = draw_conclusion(*study, Context(baseline, **context))
    text = " ".join([conclusion.sentence, *conclusion.remarks])
    assert not re.search(r"\bnan\b|\binf\b|None|  ", text), text
    return conclusion


def verdicts(conclusion: Conclusion) -> dict[str, Verdict | None]:
    return {arm.name: arm.verdict for arm in conclusion.arms}


def test_an_arm_helps() -> None:
    results, study = results_on_axis([0, 0.2, 1, 0.9, -3])
    results = [replace(result, timescale=2.5 if result.values[LAMBDA] else None) for result in results]
    conclusion = conclude((results, study), "λ=0")
    assert conclusion.sentence == (
        "Weight decay helps: use λ=0.001 (τ = 2.5 epochs). It gains 1.03 points of validation accuracy over "
        "λ=0 (95% interval +0.70 to +1.37, adjusted p = 0.0012)."
    )
    untested = "the arms that help have not been compared with each other, only with the baseline"
    assert conclusion.remarks[:3] == ["helps: λ=0.0001, λ=0.001, λ=0.01", "hurts: λ=0.1", untested]
    assert re.fullmatch(
        r"best by the smooth curve: weight_decay [\d.e-]+ \(95% interval [\d.e-]+ to [\d.e-]+\)",
        conclusion.remarks[-1],
    )
    assert (conclusion.answer, conclusion.chosen.name) == (Answer.HELPS, "λ=0.001")
    assert conclusion.seeds_needed is None
    low, high = conclusion.chosen.interval
    assert 0.0068 < low < conclusion.gain < high < 0.0138


def test_the_arm_with_the_highest_lower_end_is_recommended_not_the_highest_mean() -> None:
    noisy, calm = [0.829, 0.809, 0.834], [0.8201, 0.8299, 0.8101]
    conclusion = conclude(named_arms(none=NONE, noisy=noisy, calm=calm), "none")
    assert max(conclusion.arms, key=lambda arm: arm.mean).name == "noisy"
    assert conclusion.chosen.name == "calm"


def test_none_helps_and_a_strong_one_hurts() -> None:
    conclusion = conclude(results_on_axis([0, 0.05, 0, -1, -3], seeds=6), "λ=0")
    assert conclusion.sentence == (
        "No λ that was tried helps by more than 0.5 points compared with λ=0: the intervals end at +0.15 points or "
        "lower (λ=0.0001). From λ=0.01 on, it hurts (-0.97 points, -1.07 to -0.87)."
    )
    assert conclusion.remarks[:2] == ["hurts: λ=0.01, λ=0.1", "no difference that matters: λ=0.0001, λ=0.001"]
    assert (conclusion.answer, conclusion.chosen.name) == (Answer.NONE_HELPS, "λ=0")


def test_none_helps_and_one_that_is_not_the_strongest_hurts() -> None:
    sentence = conclude(results_on_axis([0, -2, 0, 0.05], seeds=6), "λ=0").sentence
    assert sentence.endswith("the intervals end at +0.17 points or lower (λ=0.1). It hurts: λ=0.001.")


def test_none_helps_among_named_arms() -> None:
    conclusion = conclude(named_arms(none=NONE, l1=[0.8005, 0.81, 0.7895], l2=[0.8, 0.8094, 0.7904]), "none")
    assert conclusion.sentence == (
        "No arm helps by more than 0.5 points compared with none: the intervals end at +0.14 points or lower (l1)."
    )
    assert conclusion.remarks == ["no difference that matters: l1, l2"]
    assert conclusion.chosen.name == "none"


def test_the_resolution_is_the_users() -> None:
    results, study = named_arms(none=NONE, l1=[0.8005, 0.81, 0.7895], l2=[0.8, 0.8095, 0.7905])
    study.resolution = 0.1
    assert conclude((results, study), "none").answer == Answer.UNDECIDED
    study.resolution = 2.5
    assert "helps by more than 2.5 points" in conclude((results, study), "none").sentence


def test_undecided_with_what_would_decide() -> None:
    results, study = results_on_axis([0, 0.2, 0.3, 0.1], noise=0.003)
    conclusion = conclude((results, study), "λ=0", workers=2, command=COMMAND)
    # Three of four arms have 3 of 13 seeds each: 40 trials of a minute, two at a time.
    assert conclusion.sentence == (
        "Undecided so far: λ=0.01 reaches 79.82% validation accuracy and λ=0 79.43%, a gain of +0.39 points (95% "
        "interval -0.65 to +1.44, adjusted p = 0.42). About 13 seeds per arm would decide (40 more trials, about "
        f"20 min 0 s on this machine): {COMMAND} --seeds 13"
    )
    assert conclusion.remarks[0] == "undecided: λ=0.001, λ=0.01, λ=0.1"
    assert (conclusion.answer, conclusion.chosen.name) == (Answer.UNDECIDED, "λ=0.01")
    study.until, study.max_seeds = "decided", 5
    assert conclude((results, study), "λ=0", command=COMMAND).sentence.endswith(f"{COMMAND} --max_seeds 13")
    # If 20 seeds are allowed, the study ended for another reason than this limit.
    study.max_seeds = 20
    assert conclude((results, study), "λ=0", command=COMMAND).sentence.endswith(f"machine): {COMMAND}")
    assert conclude((results, study), "λ=0").sentence.endswith("(20 more trials, about 20 min 0 s on this machine)")


def test_undecided_beyond_a_thousand_seeds() -> None:
    results, study = named_arms(none=[0.5, 0.9, 0.1], l1=[0.9, 0.1, 0.52])
    study.resolution = 0.01
    conclusion = conclude((results, study), "none", command=COMMAND)
    assert conclusion.sentence.endswith("Even 1,000 seeds per arm would not decide.")


def test_more_seeds_are_needed_than_any_arm_has() -> None:
    generator = np.random.default_rng(1)
    for seeds in (2, 3, 5) * 5:
        table = draw_accuracies([0.0] * 5, seeds, generator, 0.004).tolist()
        table[4].pop()
        conclusion = conclude(named_arms(**{f"arm{index}": row for index, row in enumerate(table)}), "arm0")
        assert conclusion.seeds_needed is None or conclusion.seeds_needed > seeds
        assert (conclusion.seeds_needed is None) == (conclusion.answer != Answer.UNDECIDED)


def test_seeds_needed_come_from_the_noise_of_the_undecided_arm() -> None:
    """An arm that diverges in one seed is not decided by the small noise of the others."""
    results = named_arms(none=NONE, wild=[0.10, 0.70, 0.78], worse=[0.789, 0.8, 0.781])
    conclusion = conclude(results, "none")
    assert verdicts(conclusion) == {"none": None, "wild": Verdict.COLLAPSES, "worse": Verdict.HURTS}
    assert conclusion.seeds_needed is not None
    assert conclusion.seeds_needed > 10


def test_one_seed_per_arm() -> None:
    conclusion = conclude(named_arms(none=[0.8], l1=[0.9]), "none")
    assert conclusion.sentence == (
        "Undecided so far: l1 reaches 90.00% validation accuracy and none 80.00%; a single seed shows no difference."
    )
    assert conclusion.remarks == ["undecided: l1"]


@pytest.mark.parametrize("accuracy", [1.0, 0.0, 0.8])
def test_zero_spread(accuracy: float) -> None:
    conclusion = conclude(named_arms(none=[accuracy] * 3, l1=[accuracy] * 3, l2=[accuracy] * 3), "none")
    assert conclusion.sentence == (
        f"Undecided so far: l1 reaches {accuracy:.2%} validation accuracy and none {accuracy:.2%}; without variation "
        "between seeds, nothing is shown."
    )
    assert conclusion.seeds_needed is None


def test_an_arm_with_a_failed_trial_is_not_recommended() -> None:
    results = named_arms(none=NONE, wild=[0.85, 0.87], l1=BETTER)
    conclusion = conclude(results, "none", failures={"wild": ["seed 2: training diverged"]})
    assert verdicts(conclusion)["wild"] == Verdict.HELPS
    assert conclusion.chosen.name == "l1"
    assert conclusion.remarks[0] == "wild is not recommended; failed trials: seed 2: training diverged"
    # The arm does not count in the cross-validated gain, either.
    assert conclusion.gain == pytest.approx(0.01, abs=0.001)


def test_all_arms_but_the_baseline_have_failed_trials() -> None:
    conclusion = conclude(named_arms(none=NONE, wild=[0.85, 0.87]), "none", failures={"wild": ["seed 2: diverged"]})
    assert conclusion.sentence == (
        "Undecided so far: there is no arm yet that can be compared with none: all others have failed trials."
    )
    assert conclusion.chosen.name == "none"


@pytest.mark.parametrize("failed", [[0.88, 0.86, 0.90], [0.88]])
def test_an_arm_with_a_failed_trial_is_no_part_of_the_answer_that_none_helps(failed: list[float]) -> None:
    results, study = named_arms(none=NONE, l1=[0.8005, 0.81, 0.7895], wild=failed)
    conclusion = conclude((results, study), "none", failures={"wild": ["seed 3: diverged"]})
    assert conclusion.answer == Answer.NONE_HELPS
    assert re.fullmatch(
        r"No arm without failed trials helps by more than 0\.5 points compared with none: the intervals end at "
        r"\+0\.\d\d points or lower \(l1\)\.",
        conclusion.sentence,
    )


def test_the_seeds_that_would_decide_do_not_depend_on_an_arm_with_a_failed_trial() -> None:
    results, study = results_on_axis([0, 0.2, 0.3, 0.1], noise=0.003)
    alone = conclude((results, study), "λ=0").seeds_needed
    wild = make_results("λ=9", [0.9], values={LAMBDA: 9.0})
    both = conclude((results + wild, study), "λ=0", failures={"λ=9": ["seed 1: diverged"]}).seeds_needed
    assert alone is not None
    assert both == pytest.approx(alone, abs=1)


def test_the_seeds_that_would_decide_are_those_for_the_next_look() -> None:
    study = results_on_axis([0, 0.2, 0.3, 0.1], noise=0.003)
    now = conclude(study, "λ=0").seeds_needed
    later = conclude(study, "λ=0", later_alpha=lambda seeds: 0.005).seeds_needed
    assert now is not None
    assert later is not None
    assert later > 1.3 * now


def test_an_unfinished_study_is_said_to_be_one() -> None:
    results, study = results_on_axis([0, 0.2, 1, 0.9, -3])
    sentence = conclude((results, study), "λ=0", missing=4).sentence
    assert sentence.startswith("With 4 trials still missing: Weight decay helps: use λ=0.001. It gains ")


@pytest.mark.parametrize("arms", [1, 2])
def test_without_a_baseline_the_best_arm_is_named(arms: int) -> None:
    results, study = named_arms(a=[0.8, 0.81], b=[0.7, 0.71])
    conclusion = conclude((results[: 2 * arms], study), None)
    assert conclusion.chosen.name == "a"
    assert conclusion.sentence == (
        "a has the highest validation accuracy: 80.50%. Name the arm to compare with by --baseline."
    )
    assert (conclusion.answer, conclusion.remarks) == (None, [])


@pytest.mark.parametrize(
    ("values", "opening"),
    [
        ({LAMBDA: 1e-3}, "Weight decay helps: use x. "),
        ({"model.timescale_epochs": 3}, "Weight decay helps: use x. "),
        ({"model.network.dropout": 0.1}, "Dropout helps: use x. "),
        ({"model.network.stochastic_depth": 0.1}, "Stochastic depth helps: use x. "),
        ({"model.label_smoothing": 0.1}, "Label smoothing helps: use x. "),
        ({"data.cutout": 8}, "Cutout helps: use x. "),
        ({"model.network.drop_block": 0.1}, "DropBlock helps: use x. "),
        ({"model.sharpness.rho": 0.1}, "Sharpness-aware minimization helps: use x. "),
        ({"data.augmentations.randaugment.magnitude": 9}, "Augmentation randaugment helps: use x. "),
        ({"model.penalties.l1.init_args.strength": 1e-4}, "Penalty l1 helps: use x. "),
        ({LAMBDA: 1e-3, "model.network.dropout": 0}, "Weight decay helps: use x. "),
        ({LAMBDA: 1e-3, "model.optimizer.lr": 0.1}, "Weight decay helps: use x. "),
        ({LAMBDA: 1e-3, "model.network.dropout": 0.1}, "x helps: use x. "),
    ],
)
def test_the_kind_of_regularization_is_named(values: dict[str, Any], opening: str) -> None:
    none = make_results("none", NONE, values=dict.fromkeys(values, 0))
    study = Study(base="x", vary={option: [0, value] for option, value in values.items()})
    sentence = conclude((none + make_results("x", BETTER, values=values), study), "none").sentence
    assert sentence.startswith(f"{opening}It gains 1.00 points of validation accuracy over none (")


@pytest.mark.parametrize(
    ("arm", "options", "opening"),
    [
        ("l1", {}, "l1 helps: use l1. "),
        ("l1", {"timescale": 12.34}, "l1 helps: use l1 (τ = 12.3 epochs). "),
        ("wd,weight_decay=1", {"group": "wd", "values": {LAMBDA: 1}}, "wd helps: use wd,weight_decay=1. "),
        # The better arm is not regularized.
        ("wide", {"unregularized": True}, "wide helps. "),
    ],
)
def test_a_named_arm_is_the_kind(arm: str, options: dict[str, Any], opening: str) -> None:
    results = make_results("none", NONE) + make_results(arm, BETTER, **options)
    sentence = conclude((results, Study(base="x", arms={"none": None, arm: None})), "none").sentence
    assert sentence.startswith(f"{opening}It gains ")


def test_no_kind_is_named_where_the_baseline_is_regularized() -> None:
    results = make_results("wd", NONE) + make_results("l1", BETTER, values={"model.penalties.l1.strength": 1})
    conclusion = conclude((results, Study(base="x", arms={"wd": None, "l1": None})), "wd")
    assert conclusion.sentence.startswith("l1 helps. It gains 1.00 points of validation accuracy over wd (")


def write_config(folder: Path, data: dict[str, Any] = {}, **model: Any) -> Path:  # noqa: B006 - never changed
    penalty = {"class_path": "regularization.L1", "init_args": {"strength": 1e-5}}
    config = {
        "model": {
            "network": {"init_args": {"dropout": 0.1, "stochastic_depth": 0.0}},
            "optimizer": {"init_args": {"lr": 0.1, "weight_decay": 5e-4}},
            "penalties": {"l1": penalty, "off": None, "zero": {"init_args": {"strength": 0}}},
            "label_smoothing": 0.1,
            "mixing": {"class_path": "torchvision.transforms.v2.MixUp", "init_args": {"alpha": 0.2}},
            **model,
        },
        "data": {"init_args": {"flip": "alternating", "crop_padding": 4, "cutout": 0, **data}},
    }
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_remarks_name_augmentations_and_sharpness(tmp_path: Path) -> None:
    augmentations = {"policy": {"class_path": "regularization.AugMix"}, "off": None}
    sharpness = {"class_path": "regularization.SAM", "init_args": {"rho": 0.05}}
    folder = write_config(tmp_path / "run", {"augmentations": augmentations}, sharpness=sharpness)
    results = make_results("none", NONE, folder=folder) + make_results("x", BETTER)
    remark = conclude((results, Study(base="x", arms={"none": None, "x": None})), "none").remarks[-1]
    assert remark.endswith("MixUp, SAM, augmentation policy, penalty l1")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "weight decay, label smoothing, dropout, flips, crops, MixUp, penalty l1"),
        ({LAMBDA: 1e-3}, "label smoothing, dropout, flips, crops, MixUp, penalty l1"),
        ({"model.optimizer.init_args.weight_decay": 1e-3, "model.network.dropout": 0.2}, None),
        ({"model.penalties.l1.init_args.strength": 1e-3, "model.mixing": None}, None),
    ],
)
def test_remarks_name_what_all_arms_also_have(values: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
    folder = write_config(tmp_path / "run")
    results = make_results("none", NONE, folder=folder) + make_results("x", BETTER, values=values)
    remark = conclude((results, Study(base="x", arms={"none": None, "x": None})), "none").remarks[-1]
    if expected is not None:
        assert remark == f"all arms also have: {expected}"
    for option, name in ((LAMBDA, "weight decay"), ("dropout", "dropout"), ("l1", "penalty l1"), ("mixing", "MixUp")):
        varied = any(option.rpartition(".")[2] in value for value in values)
        assert (name in remark) != varied


def test_remarks_name_nothing_else_where_there_is_nothing_else(tmp_path: Path) -> None:
    off: dict[str, Any] = {"label_smoothing": 0.0, "mixing": None, "penalties": {}, "network": None, "optimizer": None}
    folder = write_config(tmp_path / "run", **off)
    results = make_results("none", NONE, folder=folder) + make_results("x", BETTER)
    remarks = conclude((results, Study(base="x", arms={"none": None, "x": None})), "none").remarks
    assert remarks == ["helps: x", "all arms also have: flips, crops"]


def with_metric(accuracies: list[float], arm: str, name: str, values: list[float]) -> list[Result]:
    results = make_results(arm, accuracies)
    for result, value in zip(results, values, strict=True):
        result.row[name] = value
    return results


def test_test_accuracies_are_means_over_common_seeds() -> None:
    tested = [replace(result, test_accuracy=0.5 + 0.1 * result.seed) for result in make_results("none", NONE)]
    better = [replace(result, test_accuracy=0.8) for result in make_results("l1", BETTER)[1:]]
    study = Study(base="x", arms={"none": None, "l1": None})
    remarks = conclude((tested + better, study), "none").remarks
    assert "test accuracy: 80.00% with l1, 65.00% with none" in remarks
    alone = conclude((tested + make_results("l1", NONE), study), "none").remarks
    late = "(l1 was not recommended when the test images were evaluated)"
    assert f"test accuracy: 60.00% with none {late}" in alone


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("val_loss", "validation loss 2 with l1 instead of 1 (worse, adjusted p < 0.0001)"),
        ("val_calibration_error", "calibration error 2 with l1 instead of 1 (worse, adjusted p < 0.0001)"),
        ("norm/w", "norm of the weights 2 with l1 instead of 1 (adjusted p < 0.0001)"),
    ],
)
def test_notable_changes_of_other_metrics_are_named(name: str, words: str) -> None:
    study = Study(base="x", arms={"none": None, "l1": None})
    none = with_metric(NONE, "none", name, [1.0, 1.02, 0.98])
    l1 = with_metric(NONE[::-1], "l1", name, [2.0, 2.03, 1.97])
    remarks = conclude((none + l1, study), "none").remarks
    assert f"what else changed: {words}" in remarks
    # An arm that hurts, a small effect and one that is not significant are not named.
    hurting = with_metric([0.1, 0.12, 0.09], "l1", name, [2.0, 2.03, 1.97])
    small = with_metric(NONE[::-1], "l1", name, [1.1, 1.13, 1.07])
    noisy = with_metric(NONE[::-1], "l1", name, [5.0, 0.5, 1.0])
    for other in (hurting, small, noisy):
        assert not any("what else changed" in remark for remark in conclude((none + other, study), "none").remarks)


def test_a_loss_of_accuracy_is_named_where_another_metric_is_compared() -> None:
    """A fall from 90% to 80% is less than a fifth."""
    study = Study(base="x", arms={"none": None, "l1": None}, objective="val_loss")
    none = with_metric([0.90, 0.91, 0.89], "none", "val_loss", [1.0, 1.02, 0.98])
    l1 = with_metric([0.80, 0.812, 0.79], "l1", "val_loss", [0.5, 0.51, 0.49])
    assert conclude((none + l1, study), "none").sentence.endswith(" But the validation accuracy gets worse.")
    close = with_metric([0.893, 0.9032, 0.883], "l1", "val_loss", [0.5, 0.51, 0.49])
    assert "worse" not in conclude((none + close, study), "none").sentence


def test_a_metric_that_some_runs_lack() -> None:
    none = with_metric(NONE, "none", "val_loss", [1.0, 1.02, 0.98])
    l1 = with_metric(BETTER, "l1", "val_loss", [2.0, 2.03, 1.97])
    other = make_results("other", NONE)
    study = Study(base="x", arms={"none": None, "l1": None, "other": None})
    del l1[1].row["val_loss"]
    conclusion = conclude((none + l1 + other, study), "none")
    assert any("validation loss 1.98 with l1 instead of 1 (worse" in remark for remark in conclusion.remarks)
    assert conclusion.sentence.endswith(" But the validation loss gets worse.")
    assert "val_loss" not in conclusion.arms[2].effects
    for result in none:
        del result.row["val_loss"]
    assert "val_loss" not in conclude((none + l1 + other, study), "none").arms[1].effects


def test_the_largest_value_is_the_best() -> None:
    conclusion = conclude(results_on_axis([0, 0.2, 0.5, 2]), "λ=0", command="sweep --config study.yaml")
    assert conclusion.chosen.name == "λ=0.1"
    values = "[0, 0.001, 0.01, 0.1, 0.2, 0.5]"
    command = f"""sweep --config study.yaml --vary '{{"model.optimizer.weight_decay": {values}}}'"""
    assert f"the largest value is the best; try larger ones: {command}" in conclusion.remarks
    assert not any("smooth curve" in remark for remark in conclusion.remarks), "its best is the end of what was tried"


def test_after_a_search_no_values_are_suggested() -> None:
    results, study = results_on_axis([0, 0.2, 0.5, 2])
    adaptive = [replace(study, search="halving"), replace(study, search="tpe")]
    suggested = [conclude((results, it), "λ=0").remarks for it in (study, *adaptive)]
    assert ["try larger ones" in " ".join(remarks) for remarks in suggested] == [True, False, False]


def test_a_larger_value_that_failed_is_not_forgotten() -> None:
    results, study = results_on_axis([0, 0.2, 0.5, 2])
    study = replace(study, vary={LAMBDA: [*study.vary[LAMBDA], 100.0]})
    remarks = conclude((results, study), "λ=0", without_result={"λ=100": "diverged"}, command="sweep").remarks
    (hint,) = [remark for remark in remarks if remark.startswith("nothing was tried between 0.1 and 100, ")]
    assert "100.0" in hint, "it stays in the list"
    assert not any("try larger ones" in remark for remark in remarks)
    # While trials are missing, they may be those of the largest value.
    assert not any("was tried" in it for it in conclude((results, study), "λ=0", missing=3).remarks)


def test_no_values_of_a_probability_are_suggested() -> None:
    results, study = results_on_axis([0, 0.2, 0.5, 2])
    option = "model.network.dropout"
    results = [replace(result, values={option: result.values[LAMBDA]}) for result in results]
    study = replace(study, vary={option: study.vary[LAMBDA]})
    conclusion = conclude((results, study), "λ=0", command="sweep --config study.yaml")
    assert "the largest value is the best; try larger ones" in conclusion.remarks


def test_without_pairs_all_seeds_count() -> None:
    arms = summarize_arms(
        {"a": make_results("a", [0.8, 0.9]), "b": make_results("b", [0.7, 0.8, 0.9])}, Study(base="x"), None, 0.05
    )
    for paired, means in ((True, (0.85, 0.75, 2)), (False, (0.85, 0.8, 0))):
        assert astuple(common_means(arms[0], arms[1], arms[0].value_of, paired)) == pytest.approx(means)


def test_the_gain_is_corrected_for_choosing_the_best_arm() -> None:
    """If arms differ only by chance, the best one seems to gain more than it does."""
    arms = {
        "none": NONE,
        **{f"arm{n}": [score + 0.02 + 0.004 * ((n + k) % 3) for k, score in enumerate(NONE)] for n in (0, 1, 2)},
    }
    conclusion = conclude(named_arms(**arms), "none")
    assert conclusion.gain < conclusion.chosen.difference
    assert any(
        remark.startswith("the best of several arms looks better than it is: cross-validated over seeds, its gain is +")
        for remark in conclusion.remarks
    )
    alone = conclude(named_arms(none=NONE, arm0=arms["arm0"]), "none")
    assert not any("cross-validated" in remark for remark in alone.remarks), "there was nothing to choose from"


@pytest.mark.parametrize(("values", "is_wide"), [((0, 0.01, 1.0), True), ((0, 0.01, 0.03), False)])
def test_a_wide_step_after_the_best_value(values: tuple[float, ...], is_wide: bool) -> None:
    study = Study(base="x", vary={LAMBDA: list(values)})
    gains = (0.0, 0.02, -0.5)
    results = [
        result
        for value, gain in zip(values, gains, strict=True)
        for result in make_results(
            f"λ={value:g}",
            [score + gain + noise for score, noise in zip(NONE, (0, gain / 50, -gain / 50), strict=True)],
            values={LAMBDA: value},
        )
    ]
    remarks = conclude((results, study), "λ=0").remarks
    hint = "nothing was tried between 0.01 and 1, where the best value may lie"
    assert (hint in remarks) == is_wide


def test_a_single_arm_that_helps_may_be_called_the_best() -> None:
    results, study = named_arms(none=NONE, l1=BETTER)
    assert not any("compared with each other" in remark for remark in conclude((results, study), "none").remarks)


def test_unpaired_arms_are_compared_between_seeds() -> None:
    results, study = named_arms(none=NONE, l1=BETTER)
    assert conclude((results, study), "none").answer == Answer.HELPS
    study.paired = False
    assert conclude((results, study), "none").answer == Answer.UNDECIDED


@pytest.mark.parametrize("collapsed", [[0.1, 0.1, 0.1], [0.1, 0.12, 0.11]])
def test_all_arms_collapse(collapsed: list[float]) -> None:
    conclusion = conclude(named_arms(none=NONE, l1=collapsed, l2=collapsed), "none")
    assert conclusion.sentence.startswith("No arm helps by more than 0.5 points compared with none: the intervals end")
    assert conclusion.sentence.endswith("It hurts: l1, l2.")


def test_a_baseline_with_one_seed_and_arms_with_five() -> None:
    arms = {"l1": [0.81, 0.82, 0.83, 0.81, 0.80], "l2": [0.81, 0.82, 0.83, 0.82, 0.81]}
    assert conclude(named_arms(none=[0.8], **arms), "none").answer == Answer.UNDECIDED
    alone = conclude(named_arms(none=[0.8], l1=arms["l1"]), "none")
    assert alone.sentence.endswith("a single seed shows no difference.")


def test_an_arm_without_any_seed_of_the_baseline() -> None:
    results, study = named_arms(none=NONE, l1=[0.8, 0.81, 0.79], other=[0.9, 0.91, 0.92])
    apart = [replace(result, seed=result.seed + 3) if result.arm == "other" else result for result in results]
    conclusion = conclude((apart, study), "none")
    assert verdicts(conclusion)["other"] == Verdict.UNDECIDED
    assert conclusion.arms[1].difference == pytest.approx(0.11)
    assert conclusion.seeds_needed is None


def test_arms_are_in_the_order_of_their_values_not_of_their_names() -> None:
    values = [0, 1e-5, 1e-4, 1e-1]
    results = [
        result for value in values[::-1] for result in make_results(f"{value:g}", [0.8, 0.81], values={LAMBDA: value})
    ]
    conclusion = conclude((results, Study(base="x", vary={LAMBDA: values})), "0")
    assert [arm.name for arm in conclusion.arms] == ["0", "1e-05", "0.0001", "0.1"]
    assert [arm.name for arm in conclude(named_arms(b=[0.8, 0.81], a=[0.8, 0.81]), "b").arms] == ["b", "a"]


def draw_named_arms(effects: list[float], generator: np.random.Generator) -> tuple[list[Result], Study]:
    table = draw_accuracies(effects, 3, generator).tolist()
    return named_arms(**{f"arm{index}": accuracies for index, accuracies in enumerate(table)})


def test_at_most_5_percent_of_studies_with_equal_arms_claim_an_effect() -> None:
    generator, claims, studies = np.random.default_rng(0), 0, 400
    for _ in range(studies):
        conclusion = draw_conclusion(*draw_named_arms([0.0] * 7, generator), Context("arm0"))
        claims += any(verdict in (Verdict.HELPS, Verdict.HURTS) for verdict in verdicts(conclusion).values())
        assert (" helps. It gains" in conclusion.sentence) == (conclusion.answer == Answer.HELPS)
        assert conclusion.chosen.verdict != Verdict.NO_DIFFERENCE
    # At a rate of 5%, 400 studies have more claims than this in 1 of 200 repetitions.
    assert claims <= 31


def test_80_percent_of_studies_of_21_runs_show_a_gain_of_a_point() -> None:
    generator, shown = np.random.default_rng(1), 0
    for _ in range(60):
        conclusion = draw_conclusion(*draw_named_arms([0, 0, 0, 0.0105, 0, 0, 0], generator), Context("arm0"))
        shown += conclusion.answer == Answer.HELPS and conclusion.chosen.name == "arm3"
        assert conclusion.chosen.verdict != Verdict.NO_DIFFERENCE
    assert shown >= 0.8 * 60 - 6, "80%, less two standard errors"


def test_the_recommended_arm_is_never_one_without_a_difference_that_matters() -> None:
    generator = np.random.default_rng(2)
    for _ in range(40):
        effects = [0.0, *generator.choice([0.0, 0.002, 0.004, -0.01, -0.3], 4).tolist()]
        seeds, noise = int(generator.integers(2, 8)), float(generator.choice([0.0005, 0.002]))
        table = draw_accuracies(effects, seeds, generator, noise).tolist()
        arms = {f"arm{index}": accuracies for index, accuracies in enumerate(table)}
        conclusion = conclude(named_arms(**arms), "arm0")
        assert conclusion.chosen.verdict != Verdict.NO_DIFFERENCE
        assert conclusion.chosen.verdict != Verdict.HURTS
        assert (conclusion.chosen.verdict is None) == (conclusion.answer == Answer.NONE_HELPS)


def test_no_gain_of_another_arm_is_stated() -> None:
    """The recommended arm has the highest lower limit; the held-out gain belongs to the arm with the highest mean."""
    steady = [NONE[0] + 0.031, NONE[1] + 0.03, NONE[2] + 0.029]
    wide = [NONE[0] - 0.02, NONE[1] + 0.12, NONE[2] + 0.02]
    conclusion = conclude(named_arms(none=NONE, steady=steady, wide=wide), "none")
    assert conclusion.chosen.name == "steady"
    assert math.isnan(conclusion.gain)
    assert not any("cross-validated" in remark for remark in conclusion.remarks)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sweep --config a.yaml", "sweep --config a.yaml --max_seeds 9"),
        ("sweep --max_seeds 3 --config 'a b.yaml'", "sweep --config 'a b.yaml' --max_seeds 9"),
        ("sweep --max-seeds=3 --seeds 4", "sweep --seeds 4 --max_seeds 9"),
        ("sweep --max_seeds.a 3 --max_seeds.b=4 --seeds 4", "sweep --seeds 4 --max_seeds 9"),
        ("", ""),
    ],
)
def test_an_option_of_a_command_is_replaced(command: str, expected: str) -> None:
    assert with_option(command, "max_seeds", "9") == expected
