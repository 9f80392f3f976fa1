"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> Path:
    """Write a file so that `path` holds either what it held before or all of the new content, even after a kill.

    Args:
        path: File to write; its folder exists.
        content: What it is to hold.

    Returns:
        The path.

    Raises:
        OSError: If it cannot be written, for example on a full disk; names the file, which is as it was.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        # The system names no file when a write fails.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path
