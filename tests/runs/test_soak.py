"""Kills ``fit`` repeatedly, continues it each time, and compares the result with an uninterrupted run.

``pytest -m soak`` kills 20 times, with SOAK_KILLS=200 in the environment 200 times.
"""

import csv
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from ctypes import c_int
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tests.conftest import BASE, CONFIGS, rows_of
from tests.processes import frozen, started

KILLS = int(os.environ.get("SOAK_KILLS", 20))
PHASES = ("starting", "training", "validation", "writing")
NOISE = [f"--config={CONFIGS / 'with' / name}.yaml" for name in ("dropout", "mixup", "ema", "decay_schedule")]
NETWORK = ["--model.network.width=4", "--model.network.dropout=0.2", "--trainer.accelerator=cpu"]
# Small batches, so that validation takes long enough to be killed in it.
EVERY = ["--checkpoint.minutes=null", "--checkpoint.steps=5", "--data.eval_batch_size=8"]
DIGITS = [f"--config={BASE}", *NOISE, *NETWORK, *EVERY, "--trainer.max_epochs=12"]
CIFAR = [f"--config={CONFIGS / 'cifar10.yaml'}", *NOISE, *NETWORK, *EVERY, "--trainer.max_epochs=8"]
# 2,000 training images, and a few of the others for validation.
CIFAR += ["--data.val_size=48000", "--data.batch_size=50", "--trainer.limit_val_batches=30"]

# A server process forks the runs, so that torch is imported once.
processes = multiprocessing.get_context("forkserver")


def fit(args: list[str], folder: Path, phase: c_int) -> None:
    """Runs in a separate process; ``phase`` tells the parent what it is doing."""
    from regularization.cli.main import main
    from regularization.models.classifier import ImageClassifier
    from regularization.runs.checkpoint_io import AtomicCheckpointIO

    os.chdir(folder)
    os.environ.pop("PL_GLOBAL_SEED", None)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)

    def track(owner: type, method: str, name: str) -> None:
        original = getattr(owner, method)

        def tracked(*args: Any, **kwargs: Any) -> Any:
            before, phase.value = phase.value, PHASES.index(name)
            result = original(*args, **kwargs)
            if name == "writing":
                phase.value = before
            return result

        setattr(owner, method, tracked)

    track(ImageClassifier, "training_step", "training")
    track(ImageClassifier, "validation_step", "validation")
    track(AtomicCheckpointIO, "save_checkpoint", "writing")
    main(args)


def start(args: list[str], folder: Path) -> tuple[Any, c_int]:
    phase: Any = processes.Value("i", 0, lock=False)  # a process that is killed must not hold a lock
    process = processes.Process(target=fit, args=(args, folder, phase))
    process.start()
    return process, phase


def kill_in(args: list[str], folder: Path, target: str, delay: float) -> bool:
    """Runs ``fit`` and kills it, ``delay`` seconds after its first step or later, in the phase ``target``.

    Returns:
        Whether it was killed; False if it ended before.
    """
    process, phase = start(args, folder)
    while process.is_alive() and phase.value == 0:
        time.sleep(0.002)
    time.sleep(delay)
    killed = frozen(process.pid, lambda: phase.value == PHASES.index(target), every=0.0002)
    process.kill()
    process.join()
    assert process.exitcode == (-signal.SIGKILL if killed else 0), (folder / "log.txt").read_text()
    return killed


def complete(args: list[str], folder: Path) -> None:
    process, _ = start(args, folder)
    process.join()
    assert process.exitcode == 0, (folder / "log.txt").read_text()


def result(folder: Path) -> Any:
    """The checkpoints and rows of the newest run, without times."""
    run = max(folder.glob("runs/*/version_*"), key=lambda path: int(path.name.removeprefix("version_")))
    checkpoints = [torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best")]
    return plain([checkpoints, rows_of(run)], run.absolute())


def plain(value: Any, folder: Path) -> Any:
    """``value`` with bytes in place of tensors, so that == compares bits, without times and the run folder's path."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {
            str(key).replace(str(folder), ""): plain(item, folder) for key, item in value.items() if key != "seconds"
        }
    if isinstance(value, list | tuple):
        return [plain(item, folder) for item in value]
    return value.replace(str(folder), "") if isinstance(value, str) else repr(value)


def differences(actual: Any, expected: Any, path: str = "") -> list[str]:
    """The paths at which the two differ; an assertion on the values themselves would print megabytes."""
    if isinstance(actual, dict) and isinstance(expected, dict) and actual.keys() == expected.keys():
        return [line for key in actual for line in differences(actual[key], expected[key], f"{path}/{key}")]
    if isinstance(actual, list) and isinstance(expected, list) and len(actual) == len(expected):
        pairs = enumerate(zip(actual, expected, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{path}/{index}")]
    return [] if actual == expected else [f"{path}: {str(actual)[:40]} != {str(expected)[:40]}"]


@pytest.mark.soak
@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_a_killed_and_continued_run_equals_an_uninterrupted_one(data: str, tmp_path: Path, request: Any) -> None:
    args = ["fit", *(DIGITS if data == "digits" else [*CIFAR, f"--data.root={request.getfixturevalue('cifar_root')}"])]
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    uninterrupted.mkdir()
    complete(args, uninterrupted)
    expected = result(uninterrupted)

    chance = random.Random(KILLS)
    kills: Counter[str] = Counter()
    resumes = rounds = 0
    while kills.total() < KILLS // 2:
        rounds += 1
        folder = killed / str(rounds)
        folder.mkdir(parents=True)
        while True:
            more = ["--ckpt_path=last"] if list(folder.rglob("last.ckpt")) else []
            resumes += len(more)
            if kills.total() == KILLS // 2:
                complete([*args, *more], folder)
                break
            target = PHASES[1 + kills.total() % 3]
            if not kill_in([*args, *more], folder, target, chance.uniform(0.0, 0.8)):
                break
            kills[target] += 1
        assert differences(result(folder), expected) == []
    print(f"\n{data}: {kills.total()} kills in {rounds} runs ({dict(kills)}), {resumes} resumes, 0 losses")
    assert all(kills[phase] for phase in PHASES[1:])


@pytest.mark.soak
def test_two_processes_on_one_run_and_a_reader_that_ends(tmp_path: Path) -> None:
    """The result equals that of a single process with output that is read."""
    args = ["fit", *DIGITS, "--threads=1"]
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    complete(args, undisturbed)

    command = [sys.executable, "-m", "regularization", *args]
    first = started(subprocess.Popen(command, cwd=disturbed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    assert first.stdout is not None
    while not first.stdout.readline().startswith(b"epoch "):
        assert first.poll() is None
    first.stdout.close()
    first.send_signal(signal.SIGHUP)
    assert frozen(first.pid, lambda: bool(list(disturbed.rglob("last.ckpt"))))
    second, _ = start([*args, "--ckpt_path=last"], disturbed)
    second.join()
    assert second.exitcode == 2
    assert f"error: process {first.pid} on " in (disturbed / "log.txt").read_text()
    first.kill()
    first.wait()

    # Two processes that continue the run at the same time do not disturb each other.
    both = [start([*args, "--ckpt_path=last"], disturbed)[0] for _ in range(2)]
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) in ([0, 0], [0, 2]), (disturbed / "log.txt").read_text()
    assert differences(result(disturbed), result(undisturbed)) == []

    # The run does not end when the reader of its output ends.
    last = started(subprocess.Popen(command, cwd=disturbed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    assert last.stdout is not None
    last.stdout.close()
    assert last.wait() == 0
    assert differences(result(disturbed), result(undisturbed)) == []


STUDY = "runs/study/version_0"
SWEEP = f"""
base: {BASE}
options: {{model.network.width: 4, trainer.accelerator: cpu, trainer.max_epochs: 6, checkpoint.steps: 5}}
vary: {{model.optimizer.weight_decay: [0, 1.0e-3, 1.0e-1]}}
seeds: 3
"""


def sweep(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "regularization", "sweep", "--config", "study.yaml", "--workers=2", "--threads=1"]
    with (folder / "output.txt").open("ab") as output:
        return started(subprocess.Popen(command, cwd=folder, stdout=output, stderr=output))


def epochs(folder: Path) -> int:
    """The number of epochs that all runs together have completed."""
    return sum(len(path.read_text().splitlines()) - 1 for path in (folder / STUDY).glob("final/*/*/metrics.csv"))


def trials(folder: Path) -> list[FrozenTrial]:
    """The Optuna trials of the study: one for each attempt to complete a run."""
    backend = JournalFileBackend(str(folder / STUDY / "optuna" / "journal.log"))
    return optuna.load_study(study_name="study/version_0", storage=JournalStorage(backend)).get_trials()


def runs(folder: Path, state: TrialState) -> Counter[str]:
    """How many trials each run has in this state."""
    return Counter(trial.user_attrs["run"] for trial in trials(folder) if trial.state == state)


def kill_sweep(folder: Path, more_epochs: int) -> Counter[str]:
    """Continues the sweep, kills it after this many more epochs, and returns the runs that it interrupted."""
    target = epochs(folder) + more_epochs
    process = sweep(folder)
    still_running = frozen(process.pid, lambda: epochs(folder) >= target)
    process.kill()
    process.wait()
    assert still_running, (folder / "output.txt").read_text()
    return runs(folder, TrialState.RUNNING)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / STUDY / "results.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.soak
def test_a_sweep_killed_five_times_has_the_same_results(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("uninterrupted", "killed")]
    for folder in folders:
        folder.mkdir()
        (folder / "study.yaml").write_text(SWEEP)
    uninterrupted, killed = folders
    assert sweep(uninterrupted).wait() == 0, (uninterrupted / "output.txt").read_text()

    chance = random.Random(0)
    interrupted: Counter[str] = Counter()
    for _ in range(5):
        # The whole study has 54 epochs: it is not complete before the fifth kill.
        interrupted += kill_sweep(killed, more_epochs=chance.randint(1, 7))
    assert sweep(killed).wait() == 0, (killed / "output.txt").read_text()
    assert table(killed) == table(uninterrupted)
    complete, failed = runs(killed, TrialState.COMPLETE), runs(killed, TrialState.FAIL)
    assert len(complete) == 9
    assert set(complete.values()) == {1}, "a run was completed twice"
    # An interrupted trial has failed, unless its result was written just before.
    assert failed <= interrupted
    assert 5 <= failed.total() <= 10, "each of the five kills interrupts one or both of the workers"
    resumes = 0
    reached: dict[str, int] = {}
    for trial in trials(killed):
        run, step = trial.user_attrs["run"], trial.user_attrs.get("start_step")
        if run in reached and step is not None:
            # It continues from its last checkpoint, which is written every 5 steps and after every epoch of 18 steps.
            assert step >= reached[run]
            assert step % 5 == 0 or step % 18 == 0
            resumes += 1
        reached[run] = max(reached.get(run, 0), (trial.last_step or 0) * 18)
    print(f"\nsweep: 5 kills, {interrupted.total()} trials interrupted, {resumes} continued from a checkpoint")
