"""Using trained networks: loading from checkpoints, prediction, evaluation on test images, and export.

May import ``callbacks``, ``models``, ``optim``, ``runs``, ``data`` and ``internals``, but not ``training``, ``study`` or
``cli``, which import from here.
"""
