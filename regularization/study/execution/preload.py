"""Imported by the server from which trials are forked: what it imports and reads, no trial need import or read."""

import os
import sys
from contextlib import suppress

import torch

from regularization.errors import UserError
from regularization.study.dry_run import ReadImages

if args := os.environ.pop("REGULARIZATION_PRELOAD", ""):
    # Threads do not survive a fork.
    torch.set_num_threads(1)
    # What is wrong with the images, the trial itself will report.
    with suppress(UserError):
        ReadImages(args.split("\n"))
    sys.stdout.flush()
