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

import pytest
import torch

from tests.conftest import CONFIGS, rows_of
from tests.processes import frozen, started

KILLS = int(os.environ.get("SOAK_KILLS", 20))
PHASES = ("starting", "training", "validation", "writing")
NOISE = [f"--config={CONFIGS / 'with' / name}.yaml" for name in ("dropout", "mixup", "ema", "decay_schedule")]
NETWORK = ["--model.network.width=4", "--model.network.dropout=0.2", "--trainer.accelerator=cpu"]
# Small batches, so that validation takes long enough to be killed in it.
EVERY = ["--checkpoint.minutes=null", "--checkpoint.steps=5", "--data.eval_batch_size=8"]
DIGITS = [f"--config={CONFIGS / 'quickstart.yaml'}", *NOISE, *NETWORK, *EVERY, "--trainer.max_epochs=12"]
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


SWEEP = """
base: configs/quickstart.yaml
options: {model.network.width: 4, trainer.accelerator: cpu, trainer.max_epochs: 6, checkpoint.steps: 5}
vary: {model.optimizer.weight_decay: [0, 1.0e-3, 1.0e-1]}
seeds: 3
"""


def sweep(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "regularization", "sweep", "--config", "study.yaml", "--workers=2", "--threads=1"]
    with (folder / "output.txt").open("ab") as output:
        return started(subprocess.Popen(command, cwd=folder, stdout=output, stderr=output))


def events(folder: Path) -> list[tuple[str, str, int]]:
    """The rows of the study's log: event, trial, step."""
    path = folder / "runs/study/version_0/log.csv"
    rows = list(csv.reader(path.open(newline=""))) if path.is_file() else []
    return [(event, f"{arm} {seed}", int(step or 0)) for _, event, _, arm, seed, step in rows]


def running(folder: Path) -> set[str]:
    """The trials that have started and have not ended."""
    ended = {trial for event, trial, _ in events(folder) if event == "end"}
    return {trial for event, trial, _ in events(folder) if event == "start"} - ended


def kill_sweep(folder: Path, lines: int) -> set[str]:
    """Continues the sweep, kills it after this many more lines of the log, and returns the trials that were running."""
    target = len(events(folder)) + lines
    process = sweep(folder)
    still_running = frozen(process.pid, lambda: len(events(folder)) >= target and bool(running(folder)))
    process.kill()
    process.wait()
    assert still_running, (folder / "output.txt").read_text()
    return running(folder)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs/study/version_0/results.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.soak
def test_a_sweep_killed_five_times_has_the_same_results(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("uninterrupted", "killed")]
    for folder in folders:
        folder.mkdir()
        (folder / "configs").symlink_to(CONFIGS)
        (folder / "study.yaml").write_text(SWEEP)
    assert sweep(folders[0]).wait() == 0, (folders[0] / "output.txt").read_text()

    killed = folders[1]
    chance = random.Random(0)
    interrupted: set[str] = set()
    for _ in range(5):
        # The whole study has 72 lines: it is not complete before the fifth kill.
        interrupted |= kill_sweep(killed, lines=chance.randint(1, 9))
    assert sweep(killed).wait() == 0, (killed / "output.txt").read_text()
    assert table(killed) == table(folders[0])
    ends = Counter(trial for event, trial, _ in events(killed) if event == "end")
    assert set(ends.values()) == {1}, "a trial was completed twice"
    # A sweep that is killed between a trial's result and its line in the log leaves no line, but the table has it.
    assert {trial for event, trial, _ in events(killed) if event == "start"} - set(ends) <= interrupted
    repeated = 0
    reached: dict[str, int] = {}
    for event, trial, step in events(killed):
        if event == "start" and trial in reached:
            # It continues from its last checkpoint, which is written every 5 steps and after every epoch of 18 steps.
            assert step >= reached[trial]
            assert step % 5 == 0 or step % 18 == 0
            repeated += 1
        elif event == "epoch":
            reached[trial] = step
    print(f"\nsweep: 5 kills, {len(interrupted)} trials interrupted, {repeated} continued from a checkpoint")
