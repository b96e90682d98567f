"""Random augmentation of training images, a function of (seed, epoch, image): flips, crops, policies and erasing.

It may import ``internals`` and ``errors``.
"""
