"""The tables that benchmarks leave: one CSV file beside each script, one row a measurement."""

import csv
import io
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from segwright.files import write_whole
from segwright.layers.hardware import has_bf16
from segwright.run_folder import describe_environment


def machine() -> dict[str, Any]:
    """Columns that say where and with what a row was measured."""
    environment = describe_environment()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{environment['processor']}{' (bf16)' if has_bf16(torch.device('cpu')) else ''}",
        "cores": environment["cores"],
        "torch": torch.__version__,
        "commit": commit(),
    }


def commit() -> str:
    """The commit that is measured, with a plus if files differ from it."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=Path(__file__).parent,
        check=False,
        capture_output=True,
        text=True,
    )
    return told.stdout.strip() or "unknown"


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows that a file has; none if it does not exist."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8") as table:
        return list(csv.DictReader(table))


def write_row(file: Path, row: dict[str, Any]) -> None:
    """Add a row to a file; new columns are added to all rows."""
    rows: list[dict[str, Any]] = [*read_rows(file), row]
    columns = list(dict.fromkeys(key for line in rows for key in line))
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, table.getvalue().encode())
