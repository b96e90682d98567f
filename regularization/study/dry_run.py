"""Dry run of a trial: parses its options, creates its network and data, and estimates its cost."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Timer

from regularization.callbacks.history import format_duration
from regularization.data.sampling import Batch
from regularization.errors import UserError
from regularization.models.compilation import precision_advice
from regularization.study.config import FAILED, Trial
from regularization.training.training_cli import TrainingCLI

if TYPE_CHECKING:
    from regularization.study.plan import Plan


@dataclass(frozen=True)
class Cost:
    """Optimizer steps (None if the trainer has no limit), seconds, and bytes on disk of a trial."""

    steps: int | None
    seconds: float
    bytes: int


class DryRun(TrainingCLI):
    """Sets up a trial, including its trainer, without creating a folder and without training.

    Attributes:
        trainer: A trainer that writes nothing.
        callbacks: All callbacks that the config names.
    """

    def __init__(self, args: Sequence[str]) -> None:
        """Parses the options of ``fit`` and creates a trainer that writes nothing.

        Raises:
            UserError: When the trial would use several devices: a sweep gives each trial one.
        """
        super().__init__("fit", args)
        self.trainer = self.instantiate_trainer(logger=False, enable_checkpointing=False)
        named: Iterable[Callback | None] = self.config_init.callbacks.values()
        self.callbacks = [*self.trainer.callbacks, *filter(None, named)]  # type: ignore[attr-defined]
        if self.trainer.world_size > 1:
            raise UserError(
                f"a sweep runs each trial on one device, not {self.trainer.world_size}: start it once, and leave "
                "--trainer.devices and --trainer.num_nodes at 1.\n"
                "--workers runs several trials at a time on this machine, --ray on many."
            )

    def cost(self) -> Cost:
        """The cost of the trial, estimated from a few batches on this machine in its current state."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        limit = self.trainer.limit_train_batches
        batches = len(self.datamodule.train_dataloader())
        batches = max(1, min(batches, limit) if isinstance(limit, int) else int(batches * limit))
        times = []
        for batch in self._some_batches():
            start = time.perf_counter()
            with self.trainer.precision_plugin.forward_context():
                loss = torch.nn.functional.cross_entropy(self.model(batch.images), batch.labels)
            torch.autograd.backward(loss)
            times.append(time.perf_counter() - start)
        images = len(self.datamodule.val_set[1]) if self.datamodule.val_set else 0
        # Validation has no backward pass, and need not follow every epoch.
        validation = images / self.datamodule.batch_size / 3 / (self.trainer.check_val_every_n_epoch or 1)
        epoch = (batches + validation) * min(times)
        # Both best.ckpt and last.ckpt contain the weights and the momentum.
        size = 4 * sum(parameter.nbytes for parameter in self.model.network.parameters())
        return _cost_within_limits(self.trainer, -(-batches // self.trainer.accumulate_grad_batches), epoch, size)

    def precision_advice(self) -> str | None:
        """A sentence about a precision that would be faster on this machine; None if there is none."""
        return precision_advice(self.trainer, self.model.network)

    def _some_batches(self) -> list[Batch]:
        some = islice(self.datamodule.train_dataloader(), 4)
        return [self.datamodule.on_after_batch_transfer(batch, 0) for batch in some]


def _cost_within_limits(trainer: Trainer, steps: int, seconds: float, size: int) -> Cost:
    """The cost of as many epochs as the trainer's limits allow, with ``steps`` and ``seconds`` per epoch."""
    # In Lightning, -1 means no limit.
    limits = [trainer.max_epochs * steps] if trainer.max_epochs is not None and trainer.max_epochs >= 0 else []
    limits += [trainer.max_steps] if trainer.max_steps >= 0 else []
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:
            limits.append(int(left / seconds * steps))
    total = min(limits, default=None)
    return Cost(total, (total or 0) / steps * seconds, size)


def describe(plan: "Plan", folder: Path | None) -> None:
    """Prints the trials that would run, with their steps and their estimated time and disk space.

    Args:
        plan: The study.
        folder: The folder of the study that would be continued; None for a new study.
    """
    assert plan.first is not None
    planned = plan.trials(plan.stage(), plan.first_arms(), folder or Path(plan.stage()))
    ended = [trial for trial in planned if trial.done or _has_failed(trial, plan)]
    trials = [trial for trial in planned if trial not in ended]
    for trial in trials:
        print(f"{trial.folder.parent.parent.name}  {trial.name}  {' '.join(trial.arm.args)}")
    if ended:
        print(f"already run: {_count(len(ended), 'trial')} in {folder}")
    proposals = _open_proposals(plan, folder)
    if proposals:
        print(f"{_count(proposals, 'trial')} with values that TPE proposes")
    if trials or proposals:
        _print_cost(plan, len(trials) + proposals)
    if plan.study.until == "decided":
        print(f"then more seeds of the arms that decide, up to {plan.study.max_seeds} per arm")
    if plan.study.adaptive:
        print(f"then the finalists and the baseline with {len(plan.study.first_seeds())} fresh seeds")


def _has_failed(trial: Trial, plan: "Plan") -> bool:
    return (trial.folder / FAILED).is_file() and not plan.options.retry_failed


def _open_proposals(plan: "Plan", folder: Path | None) -> int:
    """The number of trials that TPE has not proposed yet."""
    if plan.study.search != "tpe":
        return 0
    first = {arm.name for arm in plan.first_arms()}
    begun = [path for path in folder.glob("search/*/seed_*") if path.parent.name not in first] if folder else []
    return max(0, plan.study.proposals * plan.study.search_seeds - len(begun))


def _print_cost(plan: "Plan", trials: int) -> None:
    assert plan.first is not None
    # As many threads as a trial has: additional ones would wait for the threads of other programs.
    torch.set_num_threads(plan.threads)
    cost = plan.first.cost()
    if cost.steps is None:
        print(f"{trials} trials that nothing ends: give --trainer.max_epochs, max_steps or max_time")
    else:
        total = format_duration(cost.seconds * trials / (plan.workers or 1))
        each = f"{trials} trials of {cost.steps:,} steps, about {format_duration(cost.seconds)} each"
        print(f"{each} and {total} in all")
    workers = _count(plan.workers, "worker") if plan.workers else "as many workers as the cluster has room for,"
    print(f"with {workers} of {_count(plan.threads, 'thread')}; about {cost.bytes * trials / 1e6:,.0f} MB of disk")
    if advice := plan.first.precision_advice():
        print(advice)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
