"""Logging and warnings on the terminal."""

import logging
import sys
import warnings

from regularization.errors import printable_lines

# Warnings of our libraries that do not apply to this program, as regular expressions.
IGNORED_WARNINGS = (
    # The images are in memory already: worker processes would only copy them.
    ".*does not have many workers.*",
    # A few batches per epoch are not a mistake here.
    ".*number of training batches.*is smaller than the logging interval.*",
    ".*exists and is not empty.*",
    # Checkpoints are written at the end of an epoch, and the order of the images is a function of the epoch.
    ".*your dataloader is not resumable.*",
    ".*treespec, LeafSpec.*",
    # Without held-out images there is nothing to validate on.
    ".*Total length of `list` across ranks is zero.*",
    # Evaluating a checkpoint needs none of the callbacks that wrote it.
    ".*callbacks used to create the checkpoint need to be provided.*",
    # Class and file names may be in scripts that the plots' font lacks: a box stands for the letter.
    ".*missing from font.*",
    # Metrics are equal in all processes: our sums are reduced before they are logged.
    ".*recommended to use.*sync_dist=True.*",
    # Training without SLURM is allowed on a machine that has it. Runs that would wait forever are refused.
    ".*`srun` command is available.*",
)


def configure_logging() -> None:
    """Hides Lightning's general information and the ignored warnings; prints other warnings as one line each.

    Lightning sets the levels of its loggers when it is imported, so import it first.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The report that --trainer.profiler asks for is a message of level INFO.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    for pattern in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    warnings.showwarning = lambda message, *_: print(f"warning: {printable_lines(message)}", file=sys.stderr)
