import subprocess
import sys

import pytest

MEASURE = """
import resource, sys, torch
from regularization.training.memory import retain_freed_memory
if sys.argv[1] == "keep":
    retain_freed_memory()
for _ in range(10):  # the first few fill the cache of small pieces
    torch.ones(2**25)  # 128 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_freed_memory_is_used_again() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", MEASURE, mode], capture_output=True, text=True, check=True)
        return int(done.stdout)

    # By default, each of the 3 blocks is requested from the system again, with at least 64 faults (pages of 2 MiB).
    assert faults("leave") >= 3 * 64
    assert faults("keep") < 64
