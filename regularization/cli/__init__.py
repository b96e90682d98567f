"""The command line: ``main`` chooses a command, and each command is a module with its parser and its function.

May import every other package of this program; nothing imports from here but ``api`` and ``__main__``. Modules import
torch only after the arguments have been parsed, so that help and mistyped options are answered at once.
"""
