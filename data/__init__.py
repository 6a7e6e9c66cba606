"""What is learned from: sources, the packed store, splits, augmentation, batches."""
