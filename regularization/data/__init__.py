"""From files to batches: readers, order, augmentation, preprocessing, and the LightningDataModules."""
