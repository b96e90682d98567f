"""Tests each private part of Lightning that is used, on a tiny trainer, and that no other module uses one."""

import ast
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler, LambdaCallback, RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader

from regularization.internals import lightning as internals

PACKAGE = Path(internals.__file__).parents[1]
BATCHES = 4  # per epoch, in training and in validation
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Tiny(LightningModule):
    """Trains one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.network(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Validation runs, and scores nothing."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(BATCHES, 1))  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(BATCHES, 1))  # type: ignore[arg-type]


class Events(Callback):
    """Records what happens, in order."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append("batch")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append("validation")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append("epoch end")


def fit(hooks: dict[str, Callable[..., Any]], checkpoint: Path | None = None, **options: Any) -> list[str]:
    """The events of a training with ``hooks``, methods of a callback by name."""
    events = Events()
    callbacks = [events, internals.skip_empty_hooks(Callback()), LambdaCallback(**hooks)]
    options = QUIET | {"max_epochs": 1, "num_sanity_val_steps": 0, "accelerator": "cpu"} | options
    Trainer(**options, callbacks=callbacks).fit(Tiny(), ckpt_path=checkpoint, weights_only=True)
    return events.seen


def test_hooks_that_a_class_overrides_stay_and_the_others_are_skipped() -> None:
    class Overrides(Callback):
        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            """Does nothing, but overrides the hook of the base class."""

    class Inherits(Overrides):
        """Has the hook of its base class."""

    for callback in (Overrides(), Inherits()):
        skipping = internals.skip_empty_hooks(callback)
        assert skipping is callback
        assert [name for name in internals.STEP_HOOKS if callable(getattr(callback, name))] == ["on_before_backward"]
    assert callable(Overrides().on_train_batch_end)


def test_hooks_given_to_the_callback_itself_stay() -> None:
    seen: list[int] = []
    given = internals.skip_empty_hooks(LambdaCallback(on_train_batch_end=lambda *_: seen.append(1)))
    given.on_train_batch_end(None, None, None, None, 0)  # type: ignore[arg-type]
    assert seen == [1]


def test_each_hook_of_a_step_is_called_in_every_step() -> None:
    called: list[str] = []
    fit({name: lambda *_, name=name: called.append(name) for name in internals.STEP_HOOKS})
    assert {name: called.count(name) for name in called} == dict.fromkeys(internals.STEP_HOOKS, BATCHES)


@pytest.mark.parametrize(
    ("options", "validations"), [({}, 1), ({"val_check_interval": 2}, 2), ({"limit_val_batches": 0}, 0)]
)
def test_a_validation_is_foreseen(options: dict[str, Any], validations: int) -> None:
    foreseen: list[str] = []

    def note(trainer: Trainer, *_: Any) -> None:
        foreseen.extend(["batch", "validation"] if internals.validates_next(trainer) else ["batch"])

    events = fit({"on_train_batch_end": note}, **options)
    assert foreseen == [event for event in events if event != "epoch end"]
    assert events.count("validation") == validations


@pytest.mark.parametrize(("step", "left"), [(2, ["validation", "batch", "batch", "validation"]), (4, ["validation"])])
def test_a_run_that_is_stopped_before_a_validation_resumes_with_it(step: int, left: list[str], tmp_path: Path) -> None:
    path = tmp_path / "before.ckpt"

    def save(trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == step:
            trainer.save_checkpoint(path)

    def change(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        internals.resume_with_validation(checkpoint)

    fit({"on_train_batch_end": save, "on_save_checkpoint": change}, val_check_interval=2)
    assert fit({}, path, val_check_interval=2) == [*left, "epoch end"]


def test_callback_metrics_are_restored() -> None:
    seen: list[float] = []
    fit(
        {
            "on_train_start": lambda trainer, _: internals.restore_callback_metrics(
                trainer, {"val_loss": torch.tensor(0.5)}
            ),
            "on_train_batch_end": lambda trainer, *_: seen.append(trainer.callback_metrics["val_loss"].item()),
        }
    )
    assert seen == [0.5] * BATCHES


def test_sigterm_is_taken_from_lightning() -> None:
    taken: list[bool] = []

    def take(trainer: Trainer, *_: Any) -> None:
        taken.append(internals.take_sigterm(trainer))
        signal.raise_signal(signal.SIGTERM)
        taken.extend(internals.take_sigterm(trainer) for _ in range(2))

    assert fit({"on_train_start": take}).count("batch") == BATCHES
    assert taken == [False, True, False]


def test_the_handler_of_sigterm_is_replaced() -> None:
    received: list[int] = []

    def handle(trainer: Trainer, *_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert not trainer.received_sigterm

    events = fit(
        {
            "setup": lambda trainer, *_, **__: internals.set_sigterm_handler(trainer, lambda n, _: received.append(n)),
            "on_train_start": handle,
        }
    )
    assert received == [signal.SIGTERM]
    assert events.count("batch") == BATCHES


@pytest.mark.parametrize("forbidden", [False, True])
def test_slurm_does_not_requeue(forbidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NTASKS", "JOB_NAME", "JOB_ID"):
        monkeypatch.setenv(f"SLURM_{name}", "1")
    for name in ("NODEID", "PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    handlers: list[Any] = []

    def prepare(trainer: Trainer, *_: Any, **__: Any) -> None:
        if forbidden:
            internals.forbid_requeue(trainer)

    before = signal.getsignal(signal.SIGUSR1)
    fit({"setup": prepare, "on_train_start": lambda *_: handlers.append(signal.getsignal(signal.SIGUSR1))})
    assert (handlers == [before]) == forbidden


@pytest.mark.parametrize("stopped", [False, True])
def test_sigterm_is_broadcast_in_every_step_until_that_is_stopped(
    stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    broadcasts: list[Tensor] = []

    def pretend(trainer: Trainer, *_: Any) -> None:
        """Makes the loop run as if there were several processes."""
        monkeypatch.setattr(Trainer, "world_size", 2)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: broadcasts.append(tensor))
        if stopped:
            internals.stop_sigterm_broadcast(trainer)

    fit({"on_train_start": pretend, "on_train_epoch_end": lambda *_: monkeypatch.undo()}, limit_val_batches=0)
    assert len(broadcasts) == (0 if stopped else BATCHES)


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"LOCAL_RANK": "1"}, 1),
        ({"SLURM_PROCID": "2"}, 2),
    ],
)
def test_the_rank_is_that_of_the_launcher(
    environment: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert internals.launcher_rank() == rank


def test_the_rank_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    def speaks() -> bool:
        return True

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert rank_zero_only(speaks)() is None
    internals.reset_rank()
    assert rank_zero_only(speaks)() is True


@pytest.mark.parametrize("corrected", [False, True])
def test_a_run_with_max_steps_begins_the_next_epoch(corrected: bool, tmp_path: Path) -> None:
    path = tmp_path / "epoch.ckpt"
    fit({"on_train_epoch_end": lambda trainer, _: trainer.save_checkpoint(path)})

    def begin(trainer: Trainer, *_: Any) -> None:
        assert internals.is_between_epochs(trainer)
        if corrected:
            internals.begin_next_epoch(trainer)

    events = fit({"on_train_start": begin}, path, max_epochs=-1, max_steps=2 * BATCHES)
    epoch = [*["batch"] * BATCHES, "validation", "epoch end"]
    assert events == (epoch if corrected else ["epoch end", *epoch])


def test_the_batches_of_an_epoch_are_counted_and_set() -> None:
    counts: list[int] = []
    between: list[bool] = []

    def count(trainer: Trainer, *_: Any) -> None:
        counts.append(internals.batches_of_epoch(trainer))
        between.append(internals.is_between_epochs(trainer))

    fit({"on_train_batch_end": count, "on_train_epoch_end": count})
    assert counts == [1, 2, 3, 4, 4]
    assert between == [False, False, False, False, True]


def test_a_resumed_run_trains_on_what_is_left_of_the_batches(tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    fit({"on_train_batch_end": lambda trainer, *_: trainer.save_checkpoint(path) if trainer.global_step == 1 else None})
    set_three = {"on_train_start": lambda trainer, _: internals.set_batches_of_epoch(trainer, 3)}
    assert fit({}, path).count("batch") == 3
    assert fit(set_three, path) == ["batch", "validation", "epoch end"]


# Private names of libraries other than Lightning that are used, and names that are public despite the underscore.
ALLOWED = {
    # Python: public methods of named tuples and of os. argparse lists its options nowhere else, and its help
    # formatter is adapted by overriding these methods.
    *("_replace", "_exit", "_actions", "_format_args", "_get_default_metavar_for_positional"),
    # torch, Optuna
    *("_step_supports_amp_scaling", "_trial_id"),
}


def names_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each name that is read from an object or a module, preceded by that object or module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value), node.attr
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, name) for name in (*node.module.split("."), *(a.name for a in node.names)))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            owner, name, *_ = node.args
            yield ast.unparse(owner), str(name.value) if isinstance(name, ast.Constant) else ""


def defined_in(tree: ast.AST) -> Iterator[str]:
    """The names of functions, classes, variables, and attributes of ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def test_private_names_are_used_nowhere_else() -> None:
    trees = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py") if path.parent.name != "internals"}
    own = {name for tree in trees.values() for name in defined_in(tree)}
    used = [
        f"{path.relative_to(PACKAGE)}: {owner}.{name}"
        for path, tree in trees.items()
        for owner, name in names_in(tree)
        if name.startswith("_")
        and not name.startswith(("__", "_foreach_"))
        and name not in ALLOWED
        # An inherited private name must also be defined in this package.
        and not (name in own and owner.partition(".")[0] in ("self", "cls", "super()", "regularization"))
    ]
    assert used == []


def test_whether_lightning_itself_raised_an_error() -> None:
    def error_of(call: Callable[[], Any]) -> Exception:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the caller checks it
            call()
        return caught.value

    def training_step(*_: Any) -> None:
        raise ValueError("in a hook")

    # Lightning finds options that do not fit together only after the training data is loaded.
    assert internals.raised_by_lightning(error_of(lambda: fit({}, val_check_interval=100)))
    assert not internals.raised_by_lightning(error_of(lambda: fit({"on_train_batch_start": training_step})))
    assert not internals.raised_by_lightning(error_of(lambda: int("x")))
    assert not internals.raised_by_lightning(ValueError("never raised"))


@pytest.mark.parametrize(
    ("schedule", "options", "steps", "per_epoch"),
    [
        (None, {"max_epochs": 3}, 12, 4),
        (None, {"max_epochs": 3, "accumulate_grad_batches": 3}, 6, 2),
        (None, {"max_epochs": -1}, float("inf"), 4),
        ({1: 4}, {"max_epochs": 3}, 4 + 1 + 1, 2),
        ({0: 3, 2: 1}, {"max_epochs": 3}, 2 + 2 + 4, 3),
        ({1: 4}, {"max_epochs": 3, "max_steps": 5}, 5, 2),
    ],
)
def test_the_length_of_a_training(
    schedule: dict[int, int] | None, options: dict[str, Any], steps: float, per_epoch: int
) -> None:
    lengths: list[tuple[float, int]] = []
    taken: list[int] = []

    class Length(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            lengths.append(internals.training_length(trainer))
            trainer.should_stop = trainer.max_epochs == -1

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            taken.append(trainer.global_step)

    callbacks = [Length(), *([GradientAccumulationScheduler(schedule)] if schedule else [])]
    Trainer(**QUIET, **options, accelerator="cpu", limit_val_batches=0, callbacks=callbacks).fit(Tiny())
    assert lengths[0] == (steps, per_epoch)
    if schedule:
        # Lightning's own estimate differs from epoch to epoch.
        assert set(lengths) == {(steps, per_epoch)}
    assert steps in (taken[0], float("inf"))


@pytest.mark.parametrize(("epochs", "text"), [(12, "Epoch 3/12"), (-1, "Epoch 3   "), (None, "Epoch 3   ")])
def test_the_progress_bar_counts_epochs_from_1(epochs: int | None, text: str) -> None:
    # Lightning's own progress bar counts from 0 up to the index of the last epoch.
    bar, original = internals.ProgressBarFromOne(), RichProgressBar()
    for either in (bar, original):
        either._trainer = SimpleNamespace(max_epochs=epochs)  # type: ignore[assignment]
    assert bar._get_train_description(2) == text
    assert original._get_train_description(2).startswith("Epoch 2")
