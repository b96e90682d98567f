"""Runs the trials of a study: Optuna hands them out (``queue``), an executor (``local``, ``ray``) runs each.

``coordinator`` joins the two. May import ``training`` and what is below it; of ``study`` only ``config`` and
``results``.
"""
