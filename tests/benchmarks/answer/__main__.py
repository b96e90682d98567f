"""``python -m tests.benchmarks.answer``."""

from tests.benchmarks.answer.command import main

if __name__ == "__main__":
    main()
