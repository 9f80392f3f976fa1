"""Random changes of a sample during training."""
