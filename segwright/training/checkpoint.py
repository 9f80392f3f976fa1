"""Checkpoints that a kill at any moment leaves whole."""

import io
from pathlib import Path
from typing import Any

import torch

from segwright.files import write_whole


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a state so that `path` holds either the old or the new one, never half of one.

    Raises:
        OSError: If it cannot be written, for example on a full disk; the old checkpoint stays.
    """
    # Serialized in memory first: torch's writer turns a full disk into an error of its own that names no cause.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU; tensors and plain values only, no code is run.

    Raises:
        ValueError: If there is no checkpoint or it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, so there is nothing to resume; give the folder of a run")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}); start the run again") from None
    return state
