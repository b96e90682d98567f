"""A run and its folder: created, locked, written in one step, read safely, resumed, shared by several processes.

It may import ``data``, ``internals`` and ``errors``.
"""
