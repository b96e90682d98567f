"""Using trained networks: loading from checkpoints, prediction, evaluation on test images, and export.

May import ``callbacks``, ``models``, ``optim``, ``runs`` and ``data``, and the errors; never what stands above it.
"""
