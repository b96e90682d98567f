"""Measures the speed of the program and of what it is compared with: ``python -m tests.benchmarks.speed [PART ...]``.

Run it from the checkout, on a quiet machine, with ``CIFAR10_ROOT`` naming the folder that has ``cifar-10-batches-py``.
All parts take about half an hour on 2 CPU cores; ``--quick`` only checks in some minutes whether they work.

The speed of a machine varies by itself, so a comparison is a ratio of things that were measured in turn, A B A B …,
each the median over the rounds. If one could change another's speed, they run in separate processes: memory allocation,
the number of threads and compiled code belong to a process.
"""
