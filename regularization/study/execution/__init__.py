"""Runs the trials of a study.

``queue`` is an Optuna study that hands out trials and is kept in a ``storage``. The ``coordinator`` uses an
``executor`` (``local`` or ``ray``) to start a process for each trial, and waits for it. ``trial_process`` runs in that
process: one ``fit``, which reports its epochs to Optuna and writes its result to the run folder. The modules are best
read in this order.

May import ``training`` and what is below it; of ``study`` only ``config`` and ``results``.
"""
