"""The private parts of libraries that the program relies on, each touched here and nowhere else.

This is the lowest layer: it imports nothing of the package but ``errors``.
"""
