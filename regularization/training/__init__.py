"""One run, from its config to its result: configs, the parser, and the commands fit, validate and test.

Imports the rooms below: inference, callbacks, models, optim, runs and data.
"""
