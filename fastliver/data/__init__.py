"""Sources, intensity rules, the slice store, splits and batches."""
