"""The command line: ``main`` chooses a command, and each command is a module with its parser and its function.

May import every other package; only ``api`` and ``__main__`` import from here. Modules that need torch import it after
the arguments have been parsed, so that the help is shown at once.
"""
