"""Where in its epoch a restored run continues."""

from lightning import Trainer

from regularization.data.datamodules import ImageData
from regularization.internals import lightning as internals


def batches_done(trainer: Trainer, continued: bool) -> int:
    """The batches of this epoch that a restored run has behind it; puts right what Lightning counts of them."""
    if internals.is_between_epochs(trainer):
        if continued and trainer.fit_loop.restarting:
            internals.begin_next_epoch(trainer)
        if internals.batches_of_epoch(trainer) != trainer.num_training_batches:
            # An epoch that max_steps cut short, or whose batches had another size, counts as done all the same;
            # Lightning would begin the next one where it was cut.
            internals.set_batches_of_epoch(trainer, 0)
        return 0
    if continued and isinstance(data := getattr(trainer, "datamodule", None), ImageData):
        # The batch size may be another one now: what is left of the epoch counts.
        internals.set_batches_of_epoch(trainer, data.batches_done())
    return internals.batches_of_epoch(trainer)
