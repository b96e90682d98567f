"""Imported by the server from which trials are forked: what it imports and reads, no trial need import or read."""

import logging
import os
import sys
from contextlib import suppress

import torch

from regularization.errors import UserError
from regularization.study.execution import trial_process as trial_process
from regularization.training.training_cli import TrainingCLI

if args := os.environ.pop("REGULARIZATION_PRELOAD", ""):
    # The server would print Lightning's general information on the terminal of the sweep.
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    # What is wrong with the images, the trial itself will report.
    with suppress(UserError):
        # No trainer: it would look for GPUs, which a process that is forked afterwards can't use then.
        TrainingCLI("fit", args.split("\n")).datamodule.setup("fit")
    sys.stdout.flush()
