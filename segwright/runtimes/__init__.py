"""Other engines than PyTorch for a trained segmenter."""
