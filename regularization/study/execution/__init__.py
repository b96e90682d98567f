"""Runs the trials of a study. In the order to read them:

``queue`` is an Optuna study that hands out trials, kept in a ``storage``. The ``coordinator`` has an ``executor``,
``local`` or ``ray``, start a process for each, and waits for it. ``trial_process`` is what happens there: one ``fit``,
which reports its epochs to Optuna and leaves its result in the run folder.

May import ``training`` and what is below it; of ``study`` only ``config`` and ``results``.
"""
