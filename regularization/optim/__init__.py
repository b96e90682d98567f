"""Optimization: penalties, schedules, weight decay, and how they act on a network's parameters.

Everything here works on plain PyTorch modules and optimizers; no trainer is involved.
This package may import ``runs``, ``data``, ``internals`` and ``errors``. Today it needs ``data.sampling`` and
``errors``.
"""
