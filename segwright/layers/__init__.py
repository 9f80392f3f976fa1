"""Blocks that three or more networks share, and what runs across processes."""
