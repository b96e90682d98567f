"""Using trained networks: loading from checkpoints, prediction, evaluation on test images, and export.

May import ``callbacks``, ``models``, ``optim``, ``runs``, ``data`` and ``internals``.
``training``, ``study`` and ``cli`` import from here.
"""
