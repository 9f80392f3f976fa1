"""From a folder of images and masks to a trained, measured, deployed segmenter."""

__version__ = "0.1.0"
