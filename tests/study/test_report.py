"""The command ``report``: which runs count, which are left out, and its output for an unfinished study."""

import csv
import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from regularization.cli.main import main
from regularization.study.config import Study
from tests.training.test_command import Refused

LAMBDA = "model.optimizer.weight_decay"
ACCURACIES = [0.80, 0.81, 0.79, 0.805, 0.795]


def write_run(
    folder: Path,
    accuracy: float,
    seed: int,
    network: str = "SmallResNet",
    decay: float = 0.0,
    objective: str = "",
    metrics: dict[str, float] | None = None,
) -> None:
    """Writes a complete run of ``fit``."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {"network": {"class_path": network}, "optimizer": {"init_args": {"weight_decay": decay}}}
    config = {"seed_everything": seed, "model": model, "data": {"init_args": {"split_seed": seed, "seed": None}}}
    config |= {"trainer": {"max_epochs": 2, "default_root_dir": str(folder.parents[1])}}
    config |= {"objective": objective} if objective else {}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    row = {
        "epoch": 1.0,
        "step": 10.0,
        "val_accuracy": accuracy,
        "clean_accuracy": 0.9,
        "seconds": 1.0,
        **(metrics or {}),
    }
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows([{**row, "epoch": 0.0}, row])
    (folder / "result.json").write_text(json.dumps({"last": row, "best": row, "weight_decay": decay}))


def write_trial(
    study: Path, arm: str, seed: int, accuracy: float | None, stage: str = "final", network: str = "", reason: str = ""
) -> None:
    """Writes a trial: complete with an accuracy, failed with a reason, or only planned."""
    folder = study / stage / arm / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    strength = float(arm.rpartition("=")[2]) if "=" in arm else 0.0
    trial = {"arm": arm, "group": arm.partition(",")[0], "values": {LAMBDA: strength}, "seed": seed, "stage": stage}
    (folder / "trial.json").write_text(json.dumps(trial | {"args": ["--config=x.yaml", f"--seed_everything={seed}"]}))
    if accuracy is not None:
        write_run(folder, accuracy, seed, network or "SmallResNet", strength)
    elif reason:
        (folder / "failed.txt").write_text(f"{reason}\n")


def write_study(folder: Path, compared: list[str] | None = None, **options: Any) -> Study:
    """Writes the record of a study."""
    study = Study(**{"base": "x.yaml", "arms": {"none": {LAMBDA: 0}, "wd=1": {LAMBDA: 1}}, **options})
    folder.mkdir(parents=True, exist_ok=True)
    names = None if study.adaptive else list(study.arms)
    record = {"study": dataclasses.asdict(study), "compared": compared or names, "baseline": "none", "command": "sweep"}
    (folder / "study.yaml").write_text(yaml.safe_dump(record))
    return study


def write_whole_study(folder: Path, network: str = "", first_seed: int = 0) -> None:
    write_study(folder, seeds=3)
    for arm, gains in (("none", (0.0, 0.0, 0.0)), ("wd=1", (0.02, 0.0205, 0.021))):
        for index, gain in enumerate(gains):
            accuracy = ACCURACIES[index] + gain
            write_trial(folder, arm, first_seed + index, accuracy, network=network)
    (folder / "tested.json").write_text("[]")


def report(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[str, list[str]]:
    """Runs ``report`` and returns the sentence and the remarks that it prints."""
    capsys.readouterr()
    main(["report", *args])
    *remarks, sentence, _ = capsys.readouterr().out.splitlines()
    return sentence, remarks


def counts(folder: Path) -> dict[str, int]:
    """The number of runs of each arm in the table."""
    with (folder / "results.csv").open(newline="") as file:
        return dict(Counter(row["arm"] for row in csv.DictReader(file)))


STUDY = Path("runs/tiny/version_0")
SENTENCE = "wd=1 helps: use wd=1. It gains "


def test_a_study_and_its_copy_are_one_piece_of_evidence(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(STUDY)
    shutil.copytree(STUDY, "copy/of/it")
    alone, _ = report(capsys, str(STUDY))
    _, remarks = report(capsys, str(STUDY), "copy/of/it", "--output", "out")
    assert remarks[-1] == "left out, copies of other runs: 6 trials of copy/of/it"
    assert counts(Path("out")) == {"none": 3, "wd=1": 3}
    # A folder that is given repeatedly, in any notation, counts once.
    assert report(capsys, str(STUDY), f"runs/../{STUDY}", str(STUDY.absolute())) == (alone, ["helps: wd=1"])


def test_two_versions_of_a_study(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(STUDY)
    second = STUDY.with_name("version_1")
    write_whole_study(second)
    write_trial(second, "none", 3, 0.8)
    _, remarks = report(capsys, str(STUDY), str(second), "--baseline", "none", "--output", "out")
    # The fourth seed is another run of the same arm.
    assert counts(Path("out")) == {"none": 4, "wd=1": 3}
    assert "left out, copies of other runs: 6 trials of runs/tiny/version_1" in remarks
    report(capsys, "runs/tiny", "--output", "out")
    assert counts(Path("out")) == {"none": 4, "wd=1": 3}


def test_arms_of_one_name_in_two_studies_are_two_arms(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(Path("a/tiny/version_0"))
    write_whole_study(Path("b/tiny/version_0"), network="ResNet", first_seed=3)
    write_trial(Path("b/tiny/version_0"), "none", 9, None, reason="diverged")
    sentence, remarks = report(
        capsys, "a/tiny/version_0", "b/tiny/version_0", "--output", "out", "--baseline", "a/tiny/version_0/none"
    )
    expected = {f"{root}/tiny/version_0/{arm}": 3 for root in "ab" for arm in ("none", "wd=1")}
    assert counts(Path("out")) == expected
    assert "a/tiny/version_0/none" in sentence
    assert remarks[0] == "b/tiny/version_0/none is not recommended; failed trials: seed 9: diverged"
    shutil.move("b/tiny", "b/big")
    report(capsys, "a/tiny/version_0", "b/big/version_0", "--output", "out")
    assert next(iter(counts(Path("out")))) == "tiny/version_0/none"


def test_runs_of_fit_in_folders_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(2):
        write_run(Path(f"a/x/version_{seed}"), ACCURACIES[seed], seed)
        write_run(Path(f"b/x/version_{seed}"), ACCURACIES[seed], seed, "ResNet")
        write_run(Path(f"c/x/version_{seed}"), ACCURACIES[seed], seed)
    _, remarks = report(capsys, "a", "b", "c", "--output", "out")
    assert counts(Path("out")) == {"network=SmallResNet": 2, "network=ResNet": 2}
    assert remarks == ["left out, copies of other runs: c/x/version_0, c/x/version_1"]


def write_two_arms(objectives: tuple[str, str], metric: str = "val_loss") -> None:
    """Writes three runs of each of the arms a and b: b has the higher accuracy and the higher loss."""
    for arm, gain, objective in zip("ab", (0.0, 0.02), objectives, strict=True):
        for seed in range(3):
            own = gain * (1 + 0.01 * seed)
            values = (ACCURACIES[seed] + own, seed, arm, 0.0, objective)
            write_run(Path(f"{arm}/version_{seed}"), *values, {metric: 1.0 + own})


def test_runs_of_one_config_are_named_by_their_options_and_compared_with_the_one_that_has_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = iter(range(9))
    for decay, gain in ((0.0, 0.0), (0.1, 0.02), (0.3, 0.01)):
        for seed in range(3):
            accuracy = ACCURACIES[seed] + gain + 1e-4 * seed * decay
            write_run(Path(f"runs/x/version_{next(version)}"), accuracy, seed, decay=decay)
    sentence, remarks = report(capsys, "runs/x", "--output", "out")
    assert counts(Path("out")) == {f"weight_decay={decay}": 3 for decay in ("0", "0.1", "0.3")}
    assert sentence.startswith("weight_decay=0.1 helps: use weight_decay=0.1. It gains 2.00 points")
    assert "over weight_decay=0 (" in sentence
    assert remarks[0] == "helps: weight_decay=0.1, weight_decay=0.3"
    # Another baseline may be named.
    assert "weight_decay=0.1" in report(capsys, "runs/x", "--output", "out", "--baseline", "weight_decay=0.3")[0]


def test_options_of_several_configs_are_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    for config in ("quick", "fast"):
        for version, decay in enumerate((0.0, 0.3)):
            write_run(Path(f"runs/{config}/version_{version}"), 0.8, 0, decay=decay)
    report(capsys, "runs", "--output", "out")
    names = [f"{config}/weight_decay={decay}" for config in ("fast", "quick") for decay in ("0", "0.3")]
    assert counts(Path("out")) == dict.fromkeys(names, 1)


def test_runs_whose_timescale_sets_weight_decay_are_no_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    for version, decay in enumerate((0.0, 0.3)):
        write_run(Path(f"runs/x/version_{version}"), 0.8, 0, decay=decay)
    path = Path("runs/x/version_0/config.yaml")
    config = yaml.safe_load(path.read_text())
    config["model"]["timescale_epochs"] = 5.0
    path.write_text(yaml.safe_dump(config))
    sentence, _ = report(capsys, "runs/x", "--output", "out")
    assert sentence.endswith("Name the arm to compare with by --baseline.")


def test_runs_that_differ_in_much_are_named_by_their_folders(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        write_run(
            Path(f"runs/x/version_{number}"), 0.8, 0, network="a_module.ANetworkWithALongName" + "Long" * 9 * number
        )
    report(capsys, "runs/x", "--output", "out")
    assert counts(Path("out")) == {"x/version_0": 1, "x/version_1": 1}


@pytest.mark.parametrize(
    ("objective", "metric", "name"),
    [("val_loss", "val_loss", "validation loss"), ("min:val_cost", "val_cost", "val_cost")],
)
def test_runs_are_compared_by_their_objective(
    objective: str, metric: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_two_arms((objective, objective), metric)
    sentence, remarks = report(capsys, "a", "b", "--baseline", "b", "--output", "out")
    assert sentence.startswith(f"a helps. It lowers {'the ' * (name != metric)}{name} by 0.0")
    worse = "what else changed: validation accuracy 80.00% with a instead of 82.02% (worse, adjusted p < 0.0001)"
    assert remarks == ["helps: a", worse]
    with Path("out/results.csv").open(newline="") as file:
        assert [float(row[metric]) > 1.01 for row in csv.DictReader(file)] == [False] * 3 + [True] * 3
    # A run without the metric is left out.
    write_run(Path("a/version_3"), 0.8, 3, "a", 0.0, objective)
    _, remarks = report(capsys, "a", "b", "--baseline", "b", "--output", "out")
    assert remarks == ["helps: a", worse, f"left out, without {name}: a/version_3"]


def test_runs_with_several_objectives_are_compared_by_the_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    write_two_arms(("", "val_loss"))
    sentence, remarks = report(capsys, "a", "b", "--baseline", "a", "--output", "out")
    assert sentence.startswith("b helps. It gains 2.0")
    assert remarks[-1] == (
        "the runs have several objectives (3 by val_accuracy, 3 by val_loss): they are compared by validation accuracy"
    )


def test_runs_without_their_objective(refused: Refused) -> None:
    write_two_arms(("max:val_mine", "max:val_mine"))
    assert "no run has val_mine in the epoch that counts" in refused("report", "a", "b")


def test_what_is_left_out_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(4):
        write_run(Path(f"runs/x/version_{seed}"), ACCURACIES[seed], seed)
    Path("runs/x/version_1/result.json").unlink()
    Path("runs/x/version_2/result.json").write_text('{"last": {"epoch": 1}}')
    # A run that was stopped within the first epoch.
    Path("runs/x/version_4/checkpoints").mkdir(parents=True)
    _, remarks = report(capsys, "runs/x")
    assert counts(Path("runs/x")) == {"x": 2}
    assert remarks == [
        "left out, not finished: runs/x/version_1, runs/x/version_4",
        "left out, without validation: runs/x/version_2",
    ]
    write_trial(STUDY, "none", 0, 0.8)
    write_trial(STUDY, "none", 1, None)
    assert "left out, not finished: 1 trials of runs/tiny/version_0" in report(capsys, "runs/tiny", "--output", ".")[1]


def test_an_unfinished_study_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(STUDY)
    assert report(capsys, str(STUDY))[0].startswith(SENTENCE)
    shutil.rmtree(STUDY / "final" / "none" / "seed_2")
    # This is also the state of a study that was extended after its end.
    sentence, remarks = report(capsys, str(STUDY))
    assert sentence.startswith(f"With 1 trial still missing: {SENTENCE}")
    assert remarks == ["helps: wd=1"]
    write_trial(STUDY, "none", 2, None, reason="diverged")
    assert report(capsys, str(STUDY))[0].startswith(SENTENCE)
    # The trials of an arm that was removed are not missing.
    write_trial(STUDY, "removed", 0, None)
    write_trial(STUDY, "wd=1", 7, None)
    assert report(capsys, str(STUDY))[0].startswith(SENTENCE)


def test_until_decided_misses_the_trials_that_have_begun(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(STUDY)
    write_study(STUDY, seeds=2, until="decided")
    write_trial(STUDY, "none", 3, None)
    assert report(capsys, str(STUDY))[0].startswith(f"With 1 trial still missing: {SENTENCE}")


def test_a_search_that_has_not_finished(capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"none": {LAMBDA: 0}, "wd": {LAMBDA: [1, 2, 3]}}
    write_study(STUDY, arms=arms)
    for arm, accuracy in (("none", 0.8), ("wd,wd=1", 0.82)):
        write_trial(STUDY, arm, 0, accuracy, "search")
    assert report(capsys, str(STUDY))[0].startswith("The search has not finished. So far: Undecided so far: wd,wd=1")
    assert "trained again with fresh seeds" not in (STUDY / "report.html").read_text()
    # The search has finished if the record names the arms that are compared.
    write_study(STUDY, ["none", "wd,wd=1"], arms=arms)
    write_trial(STUDY, "none", 1, 0.8)
    assert report(capsys, str(STUDY))[0].startswith("With 5 trials still missing: ")


def test_a_kind_that_failed_in_its_search_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(STUDY)
    arms = {"none": {LAMBDA: 0}, "wd=1": {LAMBDA: 1}, "dropout": {"model.network.dropout": [0.1, 0.9]}}
    write_study(STUDY, ["none", "wd=1"], arms=arms, seeds=[0, 1, 2])
    for arm in ("none", "wd=1"):
        write_trial(STUDY, arm, 0, 0.8, "search")
    write_trial(STUDY, "dropout,dropout=0.1", 0, None, "search", reason="out of memory")
    write_trial(STUDY, "dropout,dropout=0.9", 0, None, "search", reason="diverged")
    write_trial(STUDY, "removed", 0, None, "search", reason="diverged")
    sentence, remarks = report(capsys, str(STUDY))
    assert sentence.endswith(" All trials of dropout failed.")
    assert remarks == ["all trials of dropout failed: out of memory", "helps: wd=1"]
    # If one of its values can be trained, the kind is treated like the others.
    write_trial(STUDY, "dropout,dropout=0.1", 0, 0.7, "search")
    (STUDY / "search" / "dropout,dropout=0.1" / "seed_0" / "failed.txt").unlink()
    assert report(capsys, str(STUDY)) == (sentence.removesuffix(" All trials of dropout failed."), ["helps: wd=1"])


def test_the_whole_baseline_failed(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(STUDY)
    shutil.rmtree(STUDY / "final" / "none")
    sentence, remarks = report(capsys, str(STUDY))
    assert sentence == (
        "With 3 trials still missing: Nothing can be compared with the baseline none: none of its trials has finished. "
        "wd=1 has the highest validation accuracy: 82.05%."
    )
    for seed in range(3):
        write_trial(STUDY, "none", seed, None, reason="diverged")
    sentence, remarks = report(capsys, str(STUDY))
    assert sentence == (
        "Nothing can be compared with the baseline none: all of its trials failed. wd=1 has the highest "
        "validation accuracy: 82.05%."
    )
    assert remarks == ["all trials of none failed: diverged"]


def test_a_trial_of_every_arm_failed(capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_study(STUDY)
    write_study(STUDY, seeds=4)
    for arm in ("none", "wd=1"):
        write_trial(STUDY, arm, 3, None, reason="out of memory")
    sentence, remarks = report(capsys, str(STUDY))
    assert sentence.startswith(f"Every arm has a failed trial. {SENTENCE}")
    assert remarks[:2] == [f"{arm} has failed trials: seed 3: out of memory" for arm in ("none", "wd=1")]


def test_the_report_is_written_to_a_new_folder(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    write_whole_study(STUDY)
    report(capsys, str(STUDY), "--output", "reports/new")
    assert sorted(path.name for path in Path("reports/new").iterdir()) == [
        "figure.pdf",
        "figure.png",
        "figure.svg",
        "report.html",
        "results.csv",
    ]
    Path("file").touch()
    message = refused("report", str(STUDY), "--output", "file")
    assert message == "error: --output: file is a file, not a folder\n"
    assert "Not a directory" in refused("report", str(STUDY), "--output", "file/below")
    refused("report", str(STUDY), "--output", "unused", "--baseline", "typo")
