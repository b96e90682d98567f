"""Models: the LightningModule that is trained, its metrics, the networks, and weights from a file.

``regularized_module`` connects ``optim`` with Lightning's hooks, and ``classifier`` adds the task.
This package may import ``optim``, ``runs``, ``data``, ``internals`` and ``errors``.
"""
