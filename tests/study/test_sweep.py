"""The commands ``sweep`` and ``report`` as a user types them, on the digits."""

import csv
import itertools
import json
import os
import shutil
import signal
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import optuna
import pytest
import torch
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from regularization import sweep
from regularization.cli.main import main
from regularization.study import results
from regularization.study.config import Arm
from regularization.study.dry_run import DryRun
from regularization.study.execution.queue import TrialQueue
from regularization.study.pipeline import Pipeline
from regularization.study.samplers import halving
from tests.conftest import BASE
from tests.training.test_command import Refused

LAMBDA = "model.optimizer.weight_decay"
OPTIONS = {
    "model.network.width": 4,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 2,
    "trainer.limit_train_batches": 4,
}
STUDY = Path("runs/tiny/version_0")


def write(**changes: Any) -> list[str]:
    """Writes the config of a small study and returns its command."""
    content = {"base": str(BASE), "options": OPTIONS, "vary": {LAMBDA: [0, 1e-3, 1e-1]}, "seeds": 2}
    Path("tiny.yaml").write_text(yaml.safe_dump({name: v for name, v in (content | changes).items() if v is not None}))
    return ["sweep", "--config", "tiny.yaml", "--threads", "1"]


def starts() -> dict[str, int]:
    """How often each trial was begun or resumed, by its run folder."""
    logs = sorted(STUDY.rglob("log.txt"))
    return {log.parent.relative_to(STUDY).as_posix(): log.read_text().count("run folder: ") for log in logs}


def recorded(url: str | None = None) -> list[FrozenTrial]:
    """Optuna's trials, from the journal or a database."""
    if url is not None:
        storage = url.replace("postgresql:", "postgresql+psycopg2:")
        return optuna.load_study(study_name=str(STUDY.resolve()), storage=storage).get_trials()
    journal = JournalStorage(JournalFileBackend(str(STUDY / "optuna" / "journal.log")))
    return optuna.load_study(study_name="tiny/version_0", storage=journal).get_trials()


def table(folder: Path = STUDY) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_a_study_from_its_config_to_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    # ``test`` makes ``fit`` score the test set at its end. It does not apply to trials: the test set is opened once.
    main([*write(options=OPTIONS | {"test": "last"}), "--workers", "2"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"study: {STUDY}"
    dashboard = f"watch it: optuna-dashboard {STUDY}/optuna/journal.log"
    assert (dashboard in out) == (find_spec("optuna_dashboard") is not None)
    assert out[-1] == str(STUDY / "report.html")
    assert "weight_decay=" in out[-2]
    rows = table()
    assert [(row["arm"], row["seed"]) for row in rows] == [
        (f"weight_decay={value}", str(seed)) for value in ("0", "0.001", "0.1") for seed in (0, 1)
    ]
    page = (STUDY / "report.html").read_text()
    assert out[-2].split(":")[0] in page
    assert "http://" not in page.split("</script>")[-1]
    assert (STUDY / "figure.png").read_bytes().startswith(b"\x89PNG")
    tested = {row["arm"] for row in rows if row["test_accuracy"]}
    assert len(tested) <= 2
    assert "weight_decay=0" in tested
    # The table contains the same values as the files of the runs.
    for row in rows:
        folder = Path(row["folder"])
        kept = json.loads((folder / "result.json").read_text())
        assert float(row["val_accuracy"]) == kept["last"]["val_accuracy"]
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed_everything"] == int(row["seed"])

    # If the command is repeated, nothing is trained; the report is written again.
    begun = starts()
    assert set(begun.values()) == {1}
    main(write(options=OPTIONS | {"test": "last"}))
    assert starts() == begun
    assert table() == rows
    # Optuna's study has the same content.
    kept = recorded()
    assert [one.params for one in kept] == [
        {LAMBDA: float(value), "seed": seed} for seed in (0, 1) for value in ("0", "0.001", "0.1")
    ]
    assert {one.state for one in kept} == {TrialState.COMPLETE}
    assert sorted(one.value or 0 for one in kept) == sorted(float(row["val_accuracy"]) for row in rows)
    assert all(list(one.intermediate_values) == [1, 2] for one in kept)
    assert {one.user_attrs["run"] for one in kept} == set(begun)
    (STUDY / "report.html").unlink()
    main(["report", str(STUDY)])
    # The time that more seeds would take depends on the workers.
    answer, said = out[-2].partition(" About ")[0], capsys.readouterr().out.splitlines()[-2]
    assert said.partition(" About ")[0] == answer
    assert (STUDY / "report.html").is_file()


def test_two_axes_are_compared_with_the_best_arm_without_regularization(capsys: pytest.CaptureFixture[str]) -> None:
    # With the smaller learning rate, nothing is learned, so its arm with λ = 0 is not the baseline.
    main(write(vary={"model.optimizer.lr": [1e-9, 0.1], LAMBDA: [0, 1e-3]}))
    said = capsys.readouterr().out.splitlines()[-2]
    assert "lr=1e-09,weight_decay=0" not in said
    assert yaml.safe_load((STUDY / "study.yaml").read_text())["baseline"] == "lr=0.1,weight_decay=0"
    main(["report", str(STUDY)])
    assert capsys.readouterr().out.splitlines()[-2] == said


def test_a_trial_is_the_fit_one_could_type() -> None:
    main(write(vary={LAMBDA: [1e-3]}, seeds=1))
    (run,) = (STUDY / "final").glob("*/*")
    typed = [f"--{option}={value}" for option, value in OPTIONS.items()]
    typed += [f"--{LAMBDA}=1e-3", "--seed_everything=0"]
    main(["fit", "--config", str(BASE), *typed])
    ours, theirs = (results.read_rows(folder) for folder in (run, Path("runs/quickstart/version_0")))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine | {"seconds": 0} == pytest.approx(other | {"seconds": 0}, rel=1e-3, abs=1e-6)


def test_dry_run_lists_the_trials_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command = write()
    before = sorted(Path().iterdir())
    main([*command, "--dry-run"])
    out = capsys.readouterr().out.splitlines()
    assert sum(" seed " in line for line in out) == 6
    assert "6 trials of 8 steps" in out[-2]
    assert out[-1].startswith("with 1 worker of 1 thread; about ")
    assert out[-1].endswith("MB of disk")
    assert sorted(Path().iterdir()) == before


def test_dry_run_counts_the_values_that_tpe_proposes(capsys: pytest.CaptureFixture[str]) -> None:
    main([*write(search="tpe", proposals=4, vary={LAMBDA: [0, 1e-4, 1e-1]}), "--dry-run"])
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in out if " seed " in line] == [["search", "weight_decay=0"]]
    assert "4 trials with values that TPE proposes" in out
    assert any(line.startswith("5 trials of 8 steps") for line in out)


@pytest.mark.parametrize("epochs", [2, 9, 14, 17, 20, 30])
def test_halving_stops_trials_twice_at_most(epochs: int) -> None:
    pruner = halving(epochs)
    study = optuna.create_study(pruner=pruner, direction="maximize")
    for _ in range(12):
        trial = study.ask()
        for epoch in range(1, epochs):
            trial.report(0.5, epoch)
            trial.should_prune()
        (attributes,) = [it.system_attrs for it in study.get_trials() if it.number == trial.number]
        assert sum(name.startswith("completed_rung_") for name in attributes) <= 2
        study.tell(trial, 0.5)


@pytest.mark.parametrize(
    ("limits", "lines"),
    [
        ({"trainer.max_steps": 5}, "6 trials of 5 steps, about "),
        ({"trainer.max_epochs": -1, "trainer.max_steps": 5}, "6 trials of 5 steps, about "),
        ({"trainer.max_epochs": -1}, "6 trials that nothing ends: give --trainer.max_epochs, max_steps or max_time"),
        ({"trainer.max_epochs": -1, "trainer.max_time": "00:00:01:00"}, "about 1 min 0 s each and 6 min 0 s in all"),
        ({"trainer.accumulate_grad_batches": 3}, "6 trials of 4 steps, about "),
    ],
)
def test_dry_run_knows_what_ends_a_trial(
    limits: dict[str, Any], lines: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    main([*write(options=OPTIONS | limits), "--dry-run"])
    assert lines in capsys.readouterr().out


def test_the_estimate_counts_validations_as_often_as_they_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # With this clock, a training batch takes a second.
    monkeypatch.setattr("regularization.study.dry_run.time.perf_counter", itertools.count().__next__)
    args = ["--config", str(BASE), "--trainer.accelerator", "cpu", "--trainer.max_epochs", "6"]
    for every in (1, 3):
        # 18 batches of 64 images in training; 288 images in validation, which has no backward pass.
        cost = DryRun([*args, "--trainer.check_val_every_n_epoch", str(every)]).cost()
        assert cost.seconds == pytest.approx(6 * (18 + 288 / 64 / 3 / every))


def test_a_failing_trial_does_not_end_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    # Training with this learning rate diverges immediately.
    arms = {"none": {LAMBDA: 0}, "wild": {"model.optimizer.lr": 1e20}}
    main(write(vary=None, arms=arms, seeds=1))
    out = capsys.readouterr().out
    assert "wild seed 0: failed: training diverged" in out
    assert "failed: wild seed 0: training diverged" in out
    assert "all trials of wild failed: training diverged" in out
    assert out.splitlines()[-2].endswith(" All trials of wild failed.")
    assert [row["arm"] for row in table()] == ["none"]
    assert "training diverged" in (STUDY / "final" / "wild" / "seed_0" / "log.txt").read_text()
    # The failed trial is run again only on request.
    begun = starts()
    main(write(vary=None, arms=arms, seeds=1))
    assert "failed: wild seed 0: training diverged" in capsys.readouterr().out
    assert starts() == begun
    main([*write(vary=None, arms=arms, seeds=1), "--retry-failed"])
    assert starts() == begun | {"final/wild/seed_0": 2}


def test_when_all_fail_there_is_no_report(refused: Refused) -> None:
    command = write(options={**OPTIONS, "model.optimizer.lr": 1e20}, seeds=1)
    with pytest.raises(SystemExit) as exit_:
        main(command)
    assert exit_.value.code == 2


def test_trials_that_end_before_a_validation_have_failed() -> None:
    # Such trials used to be handed out again endlessly.
    options = OPTIONS | {"trainer.max_steps": 2, "trainer.check_val_every_n_epoch": 2}
    with pytest.raises(SystemExit, match="2"):
        main(write(options=options, vary={LAMBDA: [0]}, seeds=1))
    assert (STUDY / "final" / "weight_decay=0" / "seed_0" / "failed.txt").read_text() == "it has no validation\n"
    assert [trial.state for trial in recorded()] == [TrialState.FAIL]


def test_a_sweep_in_a_thread_leaves_the_process_as_it_was() -> None:
    def process() -> list[Any]:
        return [dict(os.environ), torch.get_num_threads(), *map(signal.getsignal, (signal.SIGINT, signal.SIGTERM))]

    study = {"base": BASE, "options": OPTIONS, "vary": {LAMBDA: [0]}, "seeds": 3}
    switches = {"dry_run": False, "retry_failed": True, "fresh": False}
    before = process()
    thread = Thread(target=sweep, args=(study,), kwargs={"threads": 1, "seeds": 1, **switches})
    thread.start()
    thread.join()
    assert process() == before
    assert [row["arm"] for row in table(Path("runs/default/version_0"))] == ["weight_decay=0"]


def test_tuned_arms_go_on_with_fresh_seeds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original, records = Pipeline._final_queue, []

    def final_queue(pipeline: Pipeline, arms: list[Arm]) -> TrialQueue:
        records.append(yaml.safe_load((STUDY / "study.yaml").read_text())["compared"])
        return original(pipeline, arms)

    monkeypatch.setattr(Pipeline, "_final_queue", final_queue)
    arms = {"none": {LAMBDA: 0}, "wd": {LAMBDA: [0, 1e-3, 1e-2]}}
    main(write(vary=None, arms=arms, seeds=2, baseline="none"))
    rows = table()
    # The record names the compared arms before they are trained, for reports during the training.
    assert records == [sorted({row["arm"] for row in rows if row["stage"] == "final"})]
    assert {row["stage"] for row in rows} == {"search", "final"}
    assert {row["seed"] for row in rows if row["stage"] == "search"} == {"0"}
    assert {row["seed"] for row in rows if row["stage"] == "final"} == {"1", "2"}
    assert len({row["arm"] for row in rows if row["stage"] == "final"}) == 2
    assert "chosen by a search and trained again with fresh seeds" in (STUDY / "report.html").read_text()


@pytest.mark.parametrize("search", ["tpe", "halving"])
def test_adaptive_searches(search: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**OPTIONS, "trainer.max_epochs": 9 if search == "halving" else 1}
    values = [0, 1e-4, 1e-3, 1e-2, 1e-1]
    command = write(search=search, proposals=4, options=options, vary={LAMBDA: values}, seeds=2)
    main(command)
    searched = [row for row in table() if row["stage"] == "search"]
    final = [row for row in table() if row["stage"] == "final"]
    assert len(searched) == 5
    assert {row["seed"] for row in final} == {"1", "2"}
    assert "weight_decay=0" in {row["arm"] for row in final}
    assert len(final) in (4, 6)
    if search == "halving":
        steps = sorted(int(row["steps"]) for row in searched)
        assert steps[0] == 4, "someone was stopped at the first rung, a ninth of the epochs"
        assert steps[-1] == 36
    else:
        assert len({row["arm"] for row in searched}) == 5
    begun = starts()
    main(command)
    assert starts() == begun


def test_the_recorded_command_continues_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    main([*write(vary={LAMBDA: [0, 1e-3]}, seeds=2), "--fresh"])
    assert "--fresh" not in capsys.readouterr().out
    assert "--fresh" not in yaml.safe_load((STUDY / "study.yaml").read_text())["command"]


def test_refit_trains_on_all_images_and_tests_once(capsys: pytest.CaptureFixture[str]) -> None:
    main([*write(vary={LAMBDA: [0, 1e-3]}, seeds=2), "--refit"])
    assert "refit on all training images: " in capsys.readouterr().out
    (run,) = (STUDY / "refit").iterdir()
    assert "test_accuracy" in json.loads((run / "result.json").read_text())["test"]
    assert "Digits: 1,437 training images" in (run / "log.txt").read_text()
    assert len(table()) == 4


def test_report_compares_any_runs(capsys: pytest.CaptureFixture[str], refused: Refused) -> None:
    write()
    for name, overlay in (("plain", []), ("l1", ["--config", "configs/with/l1.yaml"])):
        for seed in (0, 1):
            options = [f"--{option}={value}" for option, value in OPTIONS.items()]
            main(["fit", "--config", str(BASE), *overlay, *options, f"--seed_everything={seed}"])
        assert name
    main(["report", "runs/quickstart", "runs/quickstart+l1", "--baseline", "quickstart", "--output", "a/new/folder"])
    assert "quickstart+l1" in Path("a/new/folder/report.html").read_text()
    Path("file").touch()
    assert "--output: file is a file, not a folder" in refused("report", "runs", "--output", "file")
    assert "there is no arm x, there are quickstart" in refused("report", "runs", "--baseline", "x")


@pytest.mark.parametrize(
    ("changes", "args", "message"),
    [
        (
            {"vary": {"model.optimizer.weight_dekay": [0, 1]}},
            [],
            "unknown option weight_dekay (did you mean weight_decay",
        ),
        ({"vary": {LAMBDA: []}}, [], "the list is empty"),
        ({"vary": {LAMBDA: ["a lot"]}}, [], "'a lot' is not a number"),
        ({"vary": {LAMBDA: [-1]}}, [], "λ must not be negative"),
        ({"vary": {"model.optimizer.lr": [-1]}}, [], "arm lr=-1: "),
        ({"varry": {}}, [], "a study has no option varry (did you mean vary"),
        ({"base": "configs/none.yaml"}, [], "there is no config configs/none.yaml"),
        ({"seeds": "many"}, [], "seeds"),
        ({"search": "halving", "options": OPTIONS | {"trainer.max_epochs": 1}}, [], "max_epochs must be 2 or more"),
        ({"search": "luck"}, [], "search: must be one of 'grid', 'halving', 'tpe', not luck"),
        ({}, ["--data.val_size", "0"], "--data.val_size must be above 0"),
        ({}, ["--modle.x", "1"], "unknown argument modle.x (did you mean model"),
        ({}, ["--config", "other.yaml"], "sweep takes one --config"),
        ({}, ["--trainer.devices", "2"], "a sweep runs each trial on one device, not 2"),
    ],
)
def test_bad_studies(changes: dict[str, Any], args: list[str], message: str, refused: Refused) -> None:
    assert message in refused(*write(**changes), *args)


def test_a_study_is_extended_by_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    main(write(vary={LAMBDA: [1e-3]}, seeds=3))
    begun = starts()
    capsys.readouterr()
    main([*write(vary={LAMBDA: [1e-3]}, seeds=5), "--dry_run"])
    left, finished, cost, _ = capsys.readouterr().out.split("\n", 4)[1:]
    assert left.startswith("final  weight_decay=0.001 seed 4 ")
    assert finished == f"already run: 3 trials in {STUDY}"
    assert cost.startswith("2 trials of 8 steps, ")
    main([*write(vary={LAMBDA: [1e-3]}, seeds=5)[:-1], "2", "--dry_run"])
    said = capsys.readouterr().out
    assert "\n5 trials of 8 steps, " in said
    assert f"{STUDY} is a study with another threads: 1, not 2.\n" in said
    main(write(vary={LAMBDA: [1e-3]}, seeds=5))
    extended = table()
    assert starts() == begun | {f"final/weight_decay=0.001/seed_{seed}": 1 for seed in (3, 4)}
    shutil.rmtree("runs")
    main(write(vary={LAMBDA: [1e-3]}, seeds=5))
    assert table() == extended
    capsys.readouterr()
    # Another value, and fewer seeds.
    main(write(vary={LAMBDA: [0, 1e-3]}, seeds=3))
    assert "left out, no longer part of the study: weight_decay=0.001 seed 4" in capsys.readouterr().out
    assert Counter(row["arm"] for row in table()) == {"weight_decay=0": 3, "weight_decay=0.001": 3}
    assert set(starts().values()) == {1}
    # One arm fewer.
    main(write(vary={LAMBDA: [0]}, seeds=3))
    out = capsys.readouterr().out
    assert "left out, no longer part of the study: weight_decay=0.001 seed 0" in out
    assert {row["arm"] for row in table()} == {"weight_decay=0"}
    main(["report", str(STUDY)])
    assert capsys.readouterr().out.splitlines()[-2] == out.splitlines()[-2]


def test_a_study_is_not_mixed_with_another(refused: Refused) -> None:
    main(write(vary={LAMBDA: [0]}, seeds=1))
    message = refused(*write(vary={LAMBDA: [0]}, seeds=1, options={**OPTIONS, "trainer.max_epochs": 3}))
    assert "is a study with another options: " in message
    assert "--fresh" in message
    message = refused(*write(vary={LAMBDA: [0]}, seeds=3))
    assert "Add --resample_split=false to continue it as it is" in message
    record = STUDY / "study.yaml"
    content = yaml.safe_load(record.read_text())
    record.write_text(
        yaml.safe_dump({name: value for name, value in content.items() if name not in ("arms", "resamples")})
    )
    message = refused(*write(vary={LAMBDA: [0]}, seeds=1))
    assert f"{record} is of an older version, without arms, resamples.\nAdd --fresh" in message
    main([*write(vary={LAMBDA: [0]}, seeds=[5]), "--fresh"])
    assert sorted(path.name for path in STUDY.parent.glob("*")) == [".lock", "version_0", "version_1"]


def test_a_config_that_was_changed_in_between_is_noticed(refused: Refused) -> None:
    overlay = Path("mine.yaml")
    overlay.write_text("model: {label_smoothing: 0.1}")
    command = write(vary=None, arms={"mine": "mine.yaml"}, seeds=1)
    main(command)
    # The same config elsewhere, as in another checkout, continues the study.
    copy = Path("elsewhere") / overlay
    copy.parent.mkdir()
    shutil.copy(overlay, copy)
    main(write(vary=None, arms={"mine": str(copy)}, seeds=1))
    assert [path.name for path in STUDY.parent.glob("version_*")] == ["version_0"]
    copy.write_text("model: {label_smoothing: 0.2}")
    assert "is a study with another content of elsewhere/mine.yaml" in refused(*command)


def test_a_last_epoch_without_validation_is_refused(refused: Refused) -> None:
    command = write(options={**OPTIONS, "trainer.check_val_every_n_epoch": 3})
    assert "--trainer.max_epochs must be a multiple of 3" in refused(*command)


def test_runs_of_one_name_with_other_options_are_other_arms(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    options = [f"--{option}={value}" for option, value in OPTIONS.items()]
    for strength, seed in ((0, 0), (0, 1), (0.1, 0)):
        main(
            [
                "fit",
                "--config",
                str(BASE),
                *options,
                f"--{LAMBDA}={strength}",
                f"--seed_everything={seed}",
            ]
        )
    main(["report", "runs/quickstart"])
    assert [row["arm"] for row in table(Path("runs/quickstart"))] == [
        "weight_decay=0",
        "weight_decay=0",
        "weight_decay=0.1",
    ]


def test_reports_over_nothing(refused: Refused) -> None:
    assert "there is no folder absent" in refused("report", "absent")
    Path("empty").mkdir()
    assert "there are no finished runs with a validation in empty" in refused("report", "empty")


def test_a_killed_study_goes_on_where_it_was() -> None:
    command = write()
    main(command)
    expected = table()
    # Simulates a kill: one trial is missing, and another one has no result.
    shutil.rmtree(STUDY / "final" / "weight_decay=0" / "seed_1")
    (STUDY / "final" / "weight_decay=0.1" / "seed_0" / "result.json").unlink()
    main(command)
    assert table() == expected
