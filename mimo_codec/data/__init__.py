"""Speech to train on: manifests, the choice of what is fit to use, augmentation, batches."""
