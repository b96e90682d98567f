"""Kills ``fit`` again and again, always goes on, and compares with the run that was left in peace.

``pytest -m soak`` kills 20 times; SOAK_KILLS=200 does it that often.
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
from optuna.trial import TrialState

from tests.conftest import CONFIGS, rows_of
from tests.processes import frozen, started

KILLS = int(os.environ.get("SOAK_KILLS", 20))
PHASES = ("starting", "training", "validation", "writing")
NOISE = [f"--config={CONFIGS / 'with' / name}.yaml" for name in ("dropout", "mixup", "ema", "decay_schedule")]
NETWORK = ["--model.network.width=4", "--model.network.dropout=0.2", "--trainer.accelerator=cpu"]
# Small batches, so that validation takes its time.
EVERY = ["--checkpoint.minutes=null", "--checkpoint.steps=5", "--data.eval_batch_size=8"]
DIGITS = [f"--config={CONFIGS / 'quickstart.yaml'}", *NOISE, *NETWORK, *EVERY, "--trainer.max_epochs=12"]
CIFAR = [f"--config={CONFIGS / 'cifar10.yaml'}", *NOISE, *NETWORK, *EVERY, "--trainer.max_epochs=8"]
# 2,000 images to train, and a few of the others to validate.
CIFAR += ["--data.val_size=48000", "--data.batch_size=50", "--trainer.limit_val_batches=30"]

# A server forks the runs, so that each need not import torch again.
processes = multiprocessing.get_context("forkserver")


def fit(args: list[str], folder: Path, phase: c_int) -> None:
    """Runs in a process of its own, and tells in ``phase`` what it is doing."""
    from regularization.cli.main import main
    from regularization.models.classifier import ImageClassifier
    from regularization.runs.checkpoint_io import AtomicCheckpointIO

    os.chdir(folder)
    os.environ.pop("PL_GLOBAL_SEED", None)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)

    def telling(owner: type, method: str, now: str) -> None:
        original = getattr(owner, method)

        def told(*args: Any, **kwargs: Any) -> Any:
            before, phase.value = phase.value, PHASES.index(now)
            result = original(*args, **kwargs)
            if now == "writing":
                phase.value = before
            return result

        setattr(owner, method, told)

    telling(ImageClassifier, "training_step", "training")
    telling(ImageClassifier, "validation_step", "validation")
    telling(AtomicCheckpointIO, "save_checkpoint", "writing")
    main(args)


def start(args: list[str], folder: Path) -> tuple[Any, c_int]:
    phase: Any = processes.Value("i", 0, lock=False)  # who is stopped must not hold a lock
    process = processes.Process(target=fit, args=(args, folder, phase))
    process.start()
    return process, phase


def killed_in(args: list[str], folder: Path, wished: str, delay: float) -> bool:
    """Runs ``fit`` and kills it ``delay`` seconds after its first step, in the next phase ``wished``.

    False when it came to its end before.
    """
    process, phase = start(args, folder)
    while process.is_alive() and phase.value == 0:
        time.sleep(0.002)
    time.sleep(delay)
    killed = frozen(process.pid, lambda: phase.value == PHASES.index(wished), every=0.0002)
    process.kill()
    process.join()
    assert process.exitcode == (-signal.SIGKILL if killed else 0), (folder / "log.txt").read_text()
    return killed


def complete(args: list[str], folder: Path) -> None:
    process, _ = start(args, folder)
    process.join()
    assert process.exitcode == 0, (folder / "log.txt").read_text()


def result(folder: Path) -> Any:
    """The newest run's checkpoints and rows, without clocks."""
    run = max(folder.glob("runs/*/version_*"), key=lambda path: int(path.name.removeprefix("version_")))
    kept = [torch.load(run / "checkpoints" / f"{kind}.ckpt", weights_only=True) for kind in ("last", "best")]
    return plain([kept, rows_of(run)], run.absolute())


def plain(value: Any, folder: Path) -> Any:
    """``value`` with bytes for tensors, so that == compares bits, and without clocks and the run folder's name."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.dtype, value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {
            str(key).replace(str(folder), ""): plain(item, folder) for key, item in value.items() if key != "seconds"
        }
    if isinstance(value, list | tuple):
        return [plain(item, folder) for item in value]
    return value.replace(str(folder), "") if isinstance(value, str) else repr(value)


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where the two differ; an assertion on all of it would print megabytes."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [place for key in one for place in differences(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            place
            for key, pair in enumerate(zip(one, other, strict=True))
            for place in differences(*pair, f"{where}/{key}")
        ]
    return [] if one == other else [f"{where}: {str(one)[:40]} != {str(other)[:40]}"]


@pytest.mark.soak
@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_killed_and_continued_is_the_same_as_undisturbed(data: str, tmp_path: Path, request: Any) -> None:
    args = ["fit", *(DIGITS if data == "digits" else [*CIFAR, f"--data.root={request.getfixturevalue('cifar_root')}"])]
    peace, war = tmp_path / "peace", tmp_path / "war"
    peace.mkdir()
    complete(args, peace)
    expected = result(peace)

    chance = random.Random(KILLS)
    kills: Counter[str] = Counter()
    resumes = rounds = 0
    while kills.total() < KILLS // 2:
        rounds += 1
        folder = war / str(rounds)
        folder.mkdir(parents=True)
        while True:
            more = ["--ckpt_path=last"] if list(folder.rglob("last.ckpt")) else []
            resumes += len(more)
            if kills.total() == KILLS // 2:
                complete([*args, *more], folder)
                break
            wished = PHASES[1 + kills.total() % 3]
            if not killed_in([*args, *more], folder, wished, chance.uniform(0.0, 0.8)):
                break
            kills[wished] += 1
        assert differences(result(folder), expected) == []
    print(f"\n{data}: {kills.total()} kills in {rounds} runs ({dict(kills)}), {resumes} resumes, 0 losses")
    assert all(kills[phase] for phase in PHASES[1:])


STUDY = "runs/study/version_0"
SWEEP = """
base: configs/quickstart.yaml
options: {model.network.width: 4, trainer.accelerator: cpu, trainer.max_epochs: 6, checkpoint.steps: 5}
vary: {model.optimizer.weight_decay: [0, 1.0e-3, 1.0e-1]}
seeds: 3
"""


def sweep(folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "regularization", "sweep", "--config", "study.yaml", "--workers=2", "--threads=1"]
    with (folder / "out.txt").open("ab") as out:
        return started(subprocess.Popen(command, cwd=folder, stdout=out, stderr=out))


def epochs(folder: Path) -> int:
    """The epochs that all trials together have finished."""
    return sum(len(path.read_text().splitlines()) - 1 for path in (folder / STUDY).glob("final/*/*/metrics.csv"))


def running(folder: Path) -> set[str]:
    """The trials that have begun and not ended."""
    logs = [path.parent for path in (folder / STUDY).glob("final/*/*/log.txt")]
    return {run.relative_to(folder / STUDY).as_posix() for run in logs if not (run / "result.json").is_file()}


def killed_at_work(folder: Path, more: int) -> set[str]:
    """Sweeps on, kills it some trial's way after so many more epochs, and says which trials were running."""
    wanted = epochs(folder) + more
    process = sweep(folder)
    at_work = frozen(process.pid, lambda: epochs(folder) >= wanted and bool(running(folder)))
    process.kill()
    process.wait()
    assert at_work, (folder / "out.txt").read_text()
    return running(folder)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / STUDY / "results.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.soak
def test_a_sweep_killed_five_times_has_the_same_results(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("peace", "war")]
    for folder in folders:
        folder.mkdir()
        (folder / "configs").symlink_to(CONFIGS)
        (folder / "study.yaml").write_text(SWEEP)
    assert sweep(folders[0]).wait() == 0, (folders[0] / "out.txt").read_text()

    war = folders[1]
    chance = random.Random(0)
    cut: Counter[str] = Counter()
    for _ in range(5):
        # Of the 54 epochs of the whole study, so that it isn't done before the fifth kill.
        cut.update(killed_at_work(war, more=chance.randint(1, 7)))
    assert sweep(war).wait() == 0, (war / "out.txt").read_text()
    assert table(war) == table(folders[0])
    journal = JournalStorage(JournalFileBackend(str(war / STUDY / "optuna" / "journal.log")))
    trials = optuna.load_study(study_name="study/version_0", storage=journal).get_trials()
    complete = Counter(one.user_attrs["run"] for one in trials if one.state == TrialState.COMPLETE)
    assert len(complete) == 9
    assert set(complete.values()) == {1}, "no trial was completed twice"
    failed = Counter(one.user_attrs["run"] for one in trials if one.state == TrialState.FAIL)
    # What was killed while it was begun may not have had a log yet.
    assert all(count <= failed[run] for run, count in cut.items())
    assert failed.total() <= 10, "two workers were killed five times"
    repeated = 0
    reached: dict[str, int] = {}
    for one in trials:
        run, step = one.user_attrs["run"], one.user_attrs.get("start_step")
        if run in reached and step is not None:
            # It begins where its last checkpoint was written: every 5 steps and after every epoch of 18.
            assert step >= reached[run]
            assert step % 5 == 0 or step % 18 == 0
            repeated += 1
        reached[run] = max(reached.get(run, 0), (one.last_step or 0) * 18)
    print(f"\nsweep: 5 kills, {cut.total()} trials cut, {repeated} times one went on from a checkpoint, the same table")
