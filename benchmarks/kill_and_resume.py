"""Kills a training run at random moments and resumes it: does every run finish, with the same weights to the last bit?

One run goes straight through. Then, for each repeat, the same run is started anew, killed with SIGKILL at a moment
drawn evenly from the time that the straight run took, and resumed. Written to the CSV beside this file.

    python benchmarks/kill_and_resume.py [--repeats 10] [--steps 60] [--seed 0]
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from segwright.data.cells import write_cells
from segwright.training.logs import read_rows

SETTINGS = [
    "network=ddrnet", "network.width=16", "transform.crop=[128,128]", "train.batch_size=4", "train.deterministic=true",
    "train.checkpoint_s=1", "train.validations=4",
]  # fmt: skip


def command(*arguments: str) -> list[str]:
    """The command line, as an argument list."""
    return [sys.executable, "-m", "segwright.cli", "train", *arguments]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The trained weights of a finished run."""
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoint.pt", weights_only=True)["network"]
    return state


def main() -> None:
    """Kill, resume, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments, rows = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_cells(root / "cells", num_train=12, num_val=3)
        fresh = command(str(root / "cells"), *SETTINGS, "--steps", str(arguments.steps), "--out")
        started = time.monotonic()
        subprocess.run([*fresh, str(root / "straight")], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        expected = weights(root / "straight")
        model = Path("segmenter") / "model.safetensors"
        for repeat in range(arguments.repeats):
            run = root / f"cut{repeat}"
            moment = moments.uniform(0, seconds)
            process = subprocess.Popen([*fresh, str(run)], stdout=subprocess.DEVNULL)
            time.sleep(moment)
            process.kill()
            process.wait()
            last = max((row["step"] for row in read_rows(run / "log.csv")), default=0)
            # Killed before the recipe was written there is no run yet; the same command then starts it.
            again = command("--resume", str(run)) if (run / "recipe.yaml").is_file() else [*fresh, str(run)]
            resumed = subprocess.run(again, check=False, capture_output=True, text=True)
            is_equal = resumed.returncode == 0 and all(
                torch.equal(expected[name], got) for name, got in weights(run).items()
            )
            is_equal = is_equal and (run / model).read_bytes() == (root / "straight" / model).read_bytes()
            rows.append(
                {
                    "killed_after_s": round(moment, 1),
                    "last_logged_step": int(last),
                    "finished": resumed.returncode == 0,
                    "equal_bits": is_equal,
                }
            )
            print(rows[-1], resumed.stderr[-500:] if resumed.returncode else "", flush=True)
    with Path(__file__).with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
