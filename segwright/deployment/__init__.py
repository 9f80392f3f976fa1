"""Segmenters leave the house: exports with proof, and how fast each engine is."""
