"""Where in its epoch a restored run continues."""

from typing import Any

from lightning import Trainer

from regularization.data.datamodules import ImageData


def batches_done(trainer: Trainer, continued: bool) -> int:
    """The batches of this epoch that a restored run has behind it; puts right what Lightning counts of them."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if epochs.processed == epochs.started:
        if continued and trainer.fit_loop.restarting:
            _begin_next_epoch(trainer)
        if batches.ready != trainer.num_training_batches:
            # An epoch that max_steps cut short, or whose batches had another size, counts as done all the same;
            # Lightning would begin the next one where it was cut.
            batches.reset()
        return 0
    if continued and isinstance(data := getattr(trainer, "datamodule", None), ImageData):
        # The batch size may be another one now: what is left of the epoch counts.
        batches.completed += data.batches_done() - batches.processed
        batches.ready = batches.started = batches.processed = data.batches_done()
    return int(batches.processed)


def _begin_next_epoch(trainer: Trainer) -> None:
    """With max_steps set, Lightning would enter the epoch that the checkpoint has finished, and end it once more."""
    loop = trainer.fit_loop
    for part in (loop.epoch_progress.total, loop.epoch_progress.current):
        part.completed = part.processed  # type: ignore[attr-defined]
    loop._restarting = False
    loop.reset_restart_stage()
    loop.epoch_loop.restarting = False
    loop.epoch_loop.reset_restart_stage()
