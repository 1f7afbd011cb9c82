"""Pictures and labels: sources, augmentation, order, loaders."""
