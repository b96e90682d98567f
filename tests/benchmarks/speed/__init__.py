"""How fast the program is, beside what it is compared with: ``python -m tests.benchmarks.speed [PART ...]``.

Run it from the checkout, on a quiet machine, with ``CIFAR10_ROOT`` naming the folder that has ``cifar-10-batches-py``.
All parts take about half an hour on 2 CPU cores; ``--quick`` shows in some minutes whether they work, no more.

A machine's speed swings by itself, so a comparison is a ratio of things that were measured in turn, A B A B …, each the
median over the rounds. Where one could change another's speed they run in processes of their own: how memory is
allocated, the number of threads and what was compiled belong to a process.
"""
