"""Seconds from the start of Python to the first mask, and memory: `import segwright; load; predict`.

Each in a process of its own, alternating: PyTorch, the engine that "auto" chooses the first time (it is made then), and
the same once it is kept.

    python benchmarks/first_prediction.py RUN IMAGE [--turns 5]
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import machine, write_row

from segwright.inference.description import find_segmenter

CODE = """
import sys
import segwright
segwright.load(sys.argv[1], runtime=sys.argv[3]).predict(sys.argv[2])
status = open("/proc/self/status").read()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def once(segmenter: Path, image: Path, runtime: str) -> tuple[float, float]:
    """Seconds and megabytes of one process."""
    command = [sys.executable, "-c", CODE, str(segmenter), str(image), runtime]
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """A row in the CSV beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"torch": [], "cold": [], "kept": []}
    with tempfile.TemporaryDirectory() as folder:
        segmenter = Path(folder) / "segmenter"
        source = find_segmenter(arguments.run)
        shutil.copytree(source, segmenter, ignore=shutil.ignore_patterns("engines"))
        for _ in range(arguments.turns):
            shutil.rmtree(segmenter / "engines", ignore_errors=True)
            found["torch"].append(once(segmenter, arguments.image, "torch"))
            found["cold"].append(once(segmenter, arguments.image, "auto"))
            found["kept"].append(once(segmenter, arguments.image, "auto"))
    row = machine() | {"run": source.parent.name, "turns": arguments.turns}
    for name, pairs in found.items():
        row[f"{name}_s"] = round(statistics.median(seconds for seconds, _ in pairs), 2)
        row[f"{name}_memory_mb"] = round(statistics.median(memory for _, memory in pairs))
    row["command"] = f"python benchmarks/first_prediction.py RUN IMAGE --turns {arguments.turns}"
    print(row)
    write_row(Path(__file__).with_suffix(".csv"), row)


if __name__ == "__main__":
    main()
