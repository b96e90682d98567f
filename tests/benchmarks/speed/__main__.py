"""``python -m tests.benchmarks.speed``."""

import sys

from tests.benchmarks.speed.command import main

if __name__ == "__main__":
    main(sys.argv[1:])
