"""Tests of the package, in folders like its own."""

import os

# Set before PyTorch is imported: threads that wait in a busy loop would slow down the other processes of the tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
