"""From what the data is to what a recipe left open."""
