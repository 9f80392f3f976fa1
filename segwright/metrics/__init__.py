"""Scores from masks; each function states its protocol."""
