"""Settings that a field is used to, where the data need not decide."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "medical": {
        "transform": {"crop": [512, 512]},
        "schedule": "cosine",
        "train": {"batch_size": 8, "steps": 100_000},
    },
    "driving": {
        "transform": {"crop": [1024, 2048]},
        "schedule": "poly",
        "train": {"batch_size": 2, "steps": 200_000},
    },
    "inspection": {
        "transform": {"crop": [256, 256]},
        "schedule": "step",
        "train": {"batch_size": 16, "steps": 50_000},
    },
}
"""Crop, batch, schedule and steps by field, made for large GPUs; what a user gives wins."""
