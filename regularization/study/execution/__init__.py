"""Runs the trials of a study: Optuna hands them out (``queue``, ``storage``), an executor (``local``, ``ray``) runs each.

``coordinator`` joins the two. Imports ``training`` and what lies below it, and of ``study`` only ``config`` and ``results``.
"""
