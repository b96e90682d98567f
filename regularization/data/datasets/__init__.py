"""Data sets of other libraries, and users' own: torchvision's and similar classes, saved Hugging Face data, and arrays.

It may import ``internals``, ``errors`` and the rest of ``data``.
"""
