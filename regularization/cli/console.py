"""The terminal: what our libraries would print there and nobody needs."""

import logging
import sys
import warnings


def configure_logging() -> None:
    """Keeps Lightning's announcements, which are not about the user's run, off the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Images are in memory already: worker processes would only copy them. Few batches an epoch are no mistake here.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*number of training batches.*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")
    # Checkpoints are written at the end of epochs, and the order of an epoch is a function of its number.
    warnings.filterwarnings("ignore", ".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
    # Where nothing is held out there is nothing to validate on.
    warnings.filterwarnings("ignore", ".*Total length of `list` across ranks is zero.*")
    # Scoring a checkpoint needs none of the callbacks that wrote it.
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need to be provided.*")
    # Names in pictures may be in scripts that the font does not have: a box stands for the letter.
    warnings.filterwarnings("ignore", ".*missing from font.*")
    # Metrics are the same for all processes: sums of ours went round before they were logged.
    warnings.filterwarnings("ignore", ".*recommended to use.*sync_dist=True.*")
    # One may well train without SLURM where SLURM is; what would wait for its processes in vain is refused.
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
