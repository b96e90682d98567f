"""From files to batches: readers, sampling, augmentation, preprocessing and the LightningDataModules.

It may import ``internals`` and ``errors``.
"""
