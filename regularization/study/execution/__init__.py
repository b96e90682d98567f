"""Runs the trials of a study: Optuna hands them out (``queue``), an executor (``local``, ``ray``) runs each.

``coordinator`` joins the two. Imports ``training`` and what lies below it; of ``study`` only ``config``, ``results``,
``dry_run`` and ``trial_callbacks``.
"""
