"""One run, from its config to its result: configs, the parser, and the commands fit, validate and test.

It may import ``inference``, ``callbacks``, ``models``, ``optim``, ``runs``, ``data``, ``internals`` and ``errors``.
"""
