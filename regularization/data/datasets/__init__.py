"""Data sets of other libraries, and your own: torchvision's classes and those like them, and arrays.

It may import ``internals``, ``errors`` and the rest of ``data``.
"""
