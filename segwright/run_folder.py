"""The folder of a run: names of its files, and what is written before the first step."""

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from segwright.files import write_whole

RECIPE, DATA, ENVIRONMENT = "recipe.yaml", "data.json", "environment.json"
CHECKPOINT, SEGMENTER, REPORT, SAMPLES = "checkpoint.pt", "segmenter", "report.html", "samples"

_PACKAGES = ("segwright", "torch", "timm", "lightning-fabric", "numpy", "opencv-python-headless")


def write_start(folder: Path, recipe: str, data: dict[str, Any], *, is_resumed: bool) -> None:
    """Write the resolved recipe, the data's fingerprint and the environment into a new run folder.

    A resumed run keeps its recipe; its data must still be what it was.

    Raises:
        ValueError: If the folder holds a run already and is not resumed, or the data changed since the run began.
    """
    if (folder / RECIPE).is_file():
        if not is_resumed:
            raise ValueError(f"{folder} holds a run already; give another folder, or go on with --resume {folder}")
        before = json.loads((folder / DATA).read_text(encoding="utf-8"))
        same = [before["classes"] == data["classes"], before["encoding"] == data["encoding"]]
        if not all(same) or before["statistics"]["fingerprint"] != data["statistics"]["fingerprint"]:
            raise ValueError(
                f"the data of {folder} changed since the run began, so it cannot be resumed; start a new run on the "
                "data as it is now"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / DATA, json.dumps(data, indent=1).encode())
    write_whole(folder / ENVIRONMENT, json.dumps(describe_environment(), indent=1).encode())
    # The recipe comes last: it is what makes the folder a run.
    write_whole(folder / RECIPE, recipe.encode())


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and command, as plain values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["segwright", *sys.argv[1:]]),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def evaluation_file(split: str) -> str:
    """Name of the file with the counts of an evaluation."""
    return f"evaluation-{split}.npz"


def kept_file(split: str) -> str:
    """Name of the file with the counts of an evaluation that a user kept; `compare` prefers it."""
    return f"kept-{split}.npz"


def next_folder(parent: Path, name: str) -> Path:
    """The first folder `name-1`, `name-2`, … that does not exist yet."""
    number = 1
    while (parent / f"{name}-{number}").exists():
        number += 1
    return parent / f"{name}-{number}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # only Linux has the file
    return platform.processor() or platform.machine()
