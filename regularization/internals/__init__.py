"""Private APIs of libraries that the program relies on, each accessed only in this package.

This is the lowest layer: it may import only ``errors`` from the rest of ``regularization``.
"""
