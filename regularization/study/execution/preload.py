"""Preloaded by the server from which trials are forked: trials need not import the modules or read the images again."""

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
    # Errors in the images are reported by the trial itself.
    with suppress(UserError):
        # No trainer is created: it would look for GPUs, which processes that are forked afterwards could then not use.
        TrainingCLI("fit", args.split("\n")).datamodule.setup("fit")
    sys.stdout.flush()
