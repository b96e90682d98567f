"""The position within its epoch at which a resumed run continues."""

from lightning import Trainer

from regularization.data.image_data import ImageData
from regularization.internals import lightning as internals


def batches_done(trainer: Trainer, resumed: bool) -> int:
    """The number of batches of the current epoch that a resumed run has done; corrects Lightning's count of them."""
    if internals.is_between_epochs(trainer):
        if resumed and trainer.fit_loop.restarting:
            internals.begin_next_epoch(trainer)
        if internals.batches_of_epoch(trainer) != trainer.num_training_batches:
            # An epoch that max_steps cut short, or that had batches of another size, counts as complete. Lightning
            # would begin the next epoch at that position.
            internals.set_batches_of_epoch(trainer, 0)
        return 0
    if resumed and isinstance(data := getattr(trainer, "datamodule", None), ImageData):
        # The batch size may have changed, so the position follows from the number of images left in the epoch.
        internals.set_batches_of_epoch(trainer, data.batches_done())
    return internals.batches_of_epoch(trainer)
