"""A trial before it is run: parsed, its network and data made, its cost estimated."""

import time
from collections.abc import Sequence
from itertools import islice

import torch

from regularization.data.sampling import Batch
from regularization.errors import UserError
from regularization.training.training_cli import TrainingCLI


class DryRun(TrainingCLI):
    """A trial up to its trainer, without a folder and without training."""

    def __init__(self, args: Sequence[str]) -> None:
        """Parses the options of ``fit`` and creates a trainer that writes nothing.

        Raises:
            UserError: When it would take several devices: what a sweep has of these is shared out among its trials.
        """
        super().__init__("fit", args)
        self.trainer = self.instantiate_trainer(logger=False, enable_checkpointing=False)
        if self.trainer.world_size > 1:
            raise UserError(
                f"a sweep runs each trial on one device, not {self.trainer.world_size}: start it once, and leave "
                "--trainer.devices and --trainer.num_nodes at 1.\n"
                "--workers runs several trials at a time on this machine, --ray on many."
            )

    def cost(self) -> tuple[int, float, int]:
        """Optimizer steps, seconds and bytes of the trial, estimated from a few batches with this machine as it is."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        limit = self.trainer.limit_train_batches
        batches = len(self.datamodule.train_dataloader())
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epochs = self.trainer.max_epochs or 1
        steps = batches * epochs // self.trainer.accumulate_grad_batches
        parameters = list(self.model.network.parameters())
        times = []
        for batch in self._some_batches():
            start = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(self.model(batch.images), batch.labels)
            torch.autograd.backward(loss)
            times.append(time.perf_counter() - start)
        held = sum(parameter.nbytes for parameter in parameters)
        images = len(self.datamodule.val_set[1]) if self.datamodule.val_set else 0
        checked = images / self.datamodule.batch_size / 3 * epochs
        # Weights and momentum, in best.ckpt and last.ckpt.
        return steps, (batches * epochs + checked) * min(times), 4 * held

    def _some_batches(self) -> list[Batch]:
        some = islice(self.datamodule.train_dataloader(), 4)
        return [self.datamodule.on_after_batch_transfer(batch, 0) for batch in some]
