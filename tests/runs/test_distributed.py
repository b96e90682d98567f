"""Several real processes train one network: the same numbers as with one, and a clean end when one is lost."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.fabric.utilities.rank_zero import rank_zero_only

from regularization.runs import distributed
from tests.conftest import BASE, CONFIGS, rows_of
from tests.processes import frozen

QUICK = [f"--config={BASE}", "--model.network.width=8", "--threads=1", "--trainer.max_epochs=2"]
# 1,149 images are 41 batches and one image: most processes get nothing of the last batch.
EXACT = ["--model.network=tests.frozen.Frozen", "--trainer.precision=64-true", "--model.optimizer.lr=0.03"]
EXACT += ["--data.flip=true", "--data.crop_padding=1", "--data.cutout=2", "--data.batch_size=28"]
EXACT += [
    "--data.eval_batch_size=7"
]  # 288 validation and 360 test images: the last batch is smaller than the number of processes
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
PROGRAM = ["-m", "regularization"]
DDP = f"--config={CONFIGS / 'with' / 'ddp.yaml'}"
AGENT = {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "1"}
SRUN = {"SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3"}
LAST = "checkpoints/last.ckpt"
STARTED: list["subprocess.Popen[str]"] = []


def by_torchrun(processes: int, *args: str) -> "subprocess.Popen[str]":
    """Starts the command in this many processes by torchrun."""
    return start([*TORCHRUN, str(processes), *PROGRAM, *args, DDP])


def by_lightning(processes: int, *args: str) -> "subprocess.Popen[str]":
    """Starts the command, which starts the other processes itself."""
    return start([*PROGRAM, *args, DDP, f"--trainer.devices={processes}"])


def start(command: list[str]) -> "subprocess.Popen[str]":
    """Starts Python with this command; its output goes to a pipe."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    STARTED.append(subprocess.Popen([sys.executable, *command], env=ENVIRONMENT, **pipe))  # type: ignore[call-overload]
    return STARTED[-1]


@pytest.fixture(autouse=True)
def _kill_remaining_processes() -> Iterator[None]:
    yield
    for process in STARTED:
        for pid in [*children(process.pid), str(process.pid)] if process.poll() is None else []:
            os.kill(int(pid), signal.SIGKILL)
    STARTED.clear()


def done(process: "subprocess.Popen[str]") -> str:
    """Waits for the process, which must succeed, and returns its output."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run_of(root: str, version: int = 0) -> Path:
    return Path(root) / "quickstart+ddp" / f"version_{version}"


def weights(run: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(run / name, weights_only=True)["state_dict"]
    return content


def test_a_single_process_gets_its_own_requests_immediately() -> None:
    consensus = distributed.RankConsensus()
    consensus.start(Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False))
    assert consensus.poll(3, 0) == consensus.sync(3, 0) == [3, 0]
    assert consensus.barrier()


def results_of(rank: int, folder: Path) -> list[Any]:
    """The results of one of two processes, which requests its rank at the first step and nothing at the second."""
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    consensus = distributed.RankConsensus()
    with mock.patch.object(Trainer, "world_size", 2):
        consensus.start(trainer)
    results = [consensus.poll(rank, 0), consensus.poll(0, 0), consensus.sync(0, 5 * rank), consensus.barrier()]
    torch.distributed.destroy_process_group()
    return results


@pytest.mark.slow
def test_both_processes_get_a_request_at_the_next_step(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        first, second = pool.map(results_of, (0, 1), (tmp_path, tmp_path))
    assert first == second == [[0, 0], [1, 0], [0, 5], True]


@pytest.mark.parametrize(
    ("environment", "first", "first_of_machine", "launched"),
    [
        ({}, True, True, {}),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True, True, {"devices": 2, "num_nodes": 3}),
        ({"RANK": "2", "LOCAL_RANK": "0"}, False, True, {"devices": 2, "num_nodes": 3}),
        ({"RANK": "3", "LOCAL_RANK": "1"}, False, False, {"devices": 2, "num_nodes": 3}),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True, True, {"devices": 2, "num_nodes": 3}),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, False, False, {"devices": 2, "num_nodes": 3}),
    ],
)
def test_the_rank_is_read_from_the_environment_of_torchrun_or_srun(
    environment: dict[str, str],
    first: bool,
    first_of_machine: bool,
    launched: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):  # a launch in this process leaves them behind
        monkeypatch.delenv(name, raising=False)
    launcher = SRUN if "SLURM_PROCID" in environment else AGENT if environment else {}
    for name, value in (environment | launcher).items():
        monkeypatch.setenv(name, value)
    assert (distributed.is_first_rank(), distributed.is_first_rank_of_machine(), distributed.launcher_devices()) == (
        first,
        first_of_machine,
        launched,
    )


def test_without_its_launcher_a_process_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = (
        AGENT | SRUN | {"RANK": "3", "LOCAL_RANK": "1", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "MASTER_PORT": "1"}
    )
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert distributed.launcher_devices()
    monkeypatch.setattr(rank_zero_only, "rank", 3)  # the value if Lightning is imported with these variables
    distributed.forget_launcher()
    assert rank_zero_only.rank == 0  # type: ignore[attr-defined]
    assert (distributed.is_first_rank(), distributed.is_first_rank_of_machine(), distributed.launcher_devices()) == (
        True,
        True,
        {},
    )
    assert not set(variables) & set(os.environ)


def test_slurm_must_start_the_processes(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    args = ["fit", *QUICK, "--trainer.accelerator=cpu"]
    for name in ("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")  # as in a script of sbatch
    assert "SLURM must start the 2 processes: put srun in front of the command, with --ntasks=2" in refused(
        *args, DDP, "--trainer.devices=2"
    )
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert "Use `--ntasks-per-node=2` instead" in refused(*args, "--trainer.devices=2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "2")
    assert "put srun in front of the command" in refused(*args, "--trainer.devices=2")
    for name, value in {**SRUN, "SLURM_STEP_NUM_TASKS": "5"}.items():
        monkeypatch.setenv(name, value)
    assert (
        "SLURM started 5 processes on 3 machines: give --ntasks-per-node, so that each machine has the same number"
        in refused(*args)
    )
    assert not Path("runs").exists()


@pytest.mark.slow
def test_penalties_are_those_of_a_single_process() -> None:
    chosen = {"gradient": ("GradientPenalty", 0.3), "confidence": ("ConfidencePenalty", 0.3), "ema": ("L2EMA", 0.3)}
    penalties = {n: {"class_path": path, "init_args": {"strength": value}} for n, (path, value) in chosen.items()}
    args = ["fit", *QUICK, *EXACT, "--trainer.max_epochs=1", f"--model.penalties={json.dumps(penalties)}"]
    done(by_torchrun(1, *args, "--trainer.default_root_dir=one"))
    done(by_torchrun(2, *args, "--trainer.default_root_dir=two"))
    for name, value in weights(run_of("two")).items():
        torch.testing.assert_close(value, weights(run_of("one"))[name], rtol=0, atol=1e-10)
    (alone,), (together,) = rows_of(run_of("one")), rows_of(run_of("two"))
    for name in ("penalty/gradient", "penalty/confidence", "penalty/ema"):
        assert together[name] == pytest.approx(alone[name], rel=1e-6)
        assert alone[name] > 0


@pytest.mark.slow
def test_one_two_and_four_processes_train_the_same() -> None:
    args = ["fit", *QUICK, *EXACT, "--test=last"]
    done(by_torchrun(1, *args, "--trainer.default_root_dir=one"))
    output = done(by_torchrun(2, *args, "--trainer.default_root_dir=two"))
    assert "2 processes: each gets 14 of the 28 images per batch" in output
    assert output.count("best validation accuracy") == output.count("over 360 test images") == 1
    output = done(by_lightning(4, *args, "--trainer.default_root_dir=four"))
    assert output.count("best validation accuracy") == output.count("over 360 test images") == 1
    alone = rows_of(run_of("one"))
    assert alone[-1]["step"] == 84  # more than the 50 steps after which the numbers must agree
    assert alone[-1]["val_loss"] < 0.95 * alone[0]["val_loss"]  # it learns, so the comparison is meaningful
    for root in ("two", "four"):
        for name, value in weights(run_of(root)).items():
            torch.testing.assert_close(value, weights(run_of("one"))[name], rtol=0, atol=1e-10)
        for together, one in zip(rows_of(run_of(root)), alone, strict=True):
            for name in set(one) - {"seconds"}:
                # torchmetrics bins confidences in float32.
                exact = 1e-6 if "calibration" in name else 1e-10
                assert together[name] == pytest.approx(one[name], abs=exact, nan_ok=True), name
        for file, keys in (("val_logits.npz", ("logits", "labels", "index")), ("test/logits.npz", ("labels", "index"))):
            with np.load(run_of(root) / file) as several, np.load(run_of("one") / file) as one:
                assert all(np.array_equal(several[key], one[key]) for key in keys)
        assert [path.name for path in Path(root, "quickstart+ddp").iterdir()] == ["version_0"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_lost_process_ends_the_others_and_the_run_continues_exactly(processes: int) -> None:
    args = ["fit", *QUICK, "--checkpoint.minutes=null", "--checkpoint.steps=5", "--model.network.dropout=0.2"]
    args += ["--trainer.max_epochs=12"]
    running = by_torchrun(processes, *args, "--trainer.default_root_dir=killed")
    metrics = run_of("killed") / "metrics.csv"
    while not metrics.is_file() or not rows_of(run_of("killed")):
        assert running.poll() is None
        time.sleep(0.05)
    ranks = [int(pid) for pid in children(running.pid)]
    assert len(ranks) == processes
    assert frozen(ranks[-1], lambda: len(rows_of(run_of("killed"))) < 8)
    os.kill(ranks[-1], signal.SIGKILL)
    output, _ = running.communicate(timeout=60)
    assert f"another of the {processes} processes ended; --ckpt_path last continues" in output
    assert running.returncode != 0
    assert len(rows_of(run_of("killed"))) < 10
    done(by_torchrun(processes, *args, "--trainer.default_root_dir=killed", "--ckpt_path=last"))
    done(by_torchrun(processes, *args, "--trainer.default_root_dir=whole"))
    for name, value in weights(run_of("whole")).items():
        assert torch.equal(value, weights(run_of("killed"))[name]), name
    assert table(run_of("whole")) == table(run_of("killed"))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["Lost", "Ended"])
def test_a_process_that_is_lost_in_an_evaluation_ends_the_other(network: str) -> None:
    done(start([*PROGRAM, "fit", *QUICK[:1], f"--model.network=tests.frozen.{network}", "--trainer.max_epochs=1"]))
    checkpoint = Path("runs/quickstart/version_0") / LAST
    running = by_torchrun(2, "validate", "--trust", f"--ckpt_path={checkpoint}")
    output, _ = running.communicate(timeout=60)
    assert "error: another of the 2 processes ended, or never started" in output
    assert running.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("launch", [by_torchrun, by_lightning])
def test_a_signal_to_one_process_stops_all_after_the_same_step(launch: Any) -> None:
    args = ["fit", *QUICK, "--trainer.max_epochs=400", "--trainer.default_root_dir=stopped"]
    running = launch(2, *args)
    while not (run_of("stopped") / LAST).is_file():
        assert running.poll() is None
        time.sleep(0.05)
    other = children(running.pid)[-1]
    os.kill(int(other), signal.SIGTERM)
    output, _ = running.communicate(timeout=60)
    assert output.count("stopped by SIGTERM") == 1
    assert "continue: --ckpt_path last" in output
    assert running.returncode == (1 if launch is by_torchrun else 143)  # torchrun has its own exit code
    checkpoint = torch.load(run_of("stopped") / LAST, weights_only=True)
    assert f"step {checkpoint['global_step']};" in output


@pytest.mark.slow
def test_divergence_is_reported_once() -> None:
    args = ["fit", *QUICK, "--model.optimizer.lr=1e12", "--trainer.default_root_dir=diverged"]
    running = by_lightning(2, *args)
    output, _ = running.communicate(timeout=120)
    assert output.count("error: training diverged: the") == 1, output
    assert running.returncode == 2


def children(pid: int) -> list[str]:
    """The training processes that ``pid`` started, recognized by their command."""
    pids = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # other processes may end at any time
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and b"regularization" in (entry / "cmdline").read_bytes():
                pids.append(entry.name)
    return sorted(pids, key=int)


def table(run: Path) -> list[dict[str, str]]:
    """The texts in ``metrics.csv``, without the times."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
