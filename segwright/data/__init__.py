"""Reading images and masks: pairs, encodings, checks, batches."""
