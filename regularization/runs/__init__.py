"""Run folders: creation, locking, atomic writes, safe loading of checkpoints, resuming, and distributed runs.

It may import ``data``, ``internals`` and ``errors``.
"""
