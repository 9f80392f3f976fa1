"""The segmenter and what turns its logits into masks of any size."""
