"""Changes to training images, drawn per image from (seed, epoch, image): flips, crops, policies and erasing.

It may import ``internals`` and ``errors``.
"""
