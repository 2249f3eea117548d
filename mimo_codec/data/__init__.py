"""Speech to train on: manifests, what is fit to use, augmentation, batches."""
