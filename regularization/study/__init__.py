"""Studies: many runs that differ in regularization and seed, and the conclusion from their results.

Config, plan, execution, results, analysis and report of a study.
May import ``training``, ``inference`` and every package below them, and the errors; never ``cli`` or ``api``.
"""
