"""Memory of a training step: what the planner tells from the shapes, and what a process really takes.

Each network trains two steps of AdamW in a process of its own, beside a copy for the smoothed weights; measured is the
growth of its largest resident memory.

    python benchmarks/memory.py [NAME ...]
"""

import csv
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F

from segwright import parts
from segwright.planning.step import follow_step
from segwright.run_folder import describe_environment

NAMES = ["ddrnet", "unet", "deeplabv3plus", "bisenetv2", "fc_densenet", "pspnet", "segnet", "unetplusplus", "segformer"]
CROP, BATCH, CLASSES = (160, 224), 4, 11


def measure(name: str, *, bf16: bool) -> tuple[int, int]:
    """Bytes that are told and bytes that are taken."""
    settings = parts.check_arguments("network", name, {})
    told = follow_step({"name": name, **settings}, 3, CLASSES, CROP, bf16=bf16).num_bytes(BATCH)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if "weights" in settings:
        settings["weights"] = "none"
    network = parts.build("network", name, settings, in_channels=3, num_classes=CLASSES)
    network.train().to(memory_format=torch.channels_last)
    average = [parameter.detach().clone() for parameter in network.parameters() for _ in range(2)]
    optimizer = torch.optim.AdamW(network.parameters())
    for _ in range(2):
        image = torch.randn(BATCH, 3, *CROP).to(memory_format=torch.channels_last)
        mask = torch.randint(0, CLASSES, (BATCH, *CROP))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = network.forward_all(image) if hasattr(network, "forward_all") else [network(image)]
        loss = sum(F.cross_entropy(F.interpolate(output.float(), CROP), mask) for output in outputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    del average
    return told, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def main() -> None:
    rows = []
    environment = describe_environment()
    for name in sys.argv[1:] or NAMES:
        for bf16 in (True, False):
            code = f"import sys; sys.argv = ['memory']; import memory; print(*memory.measure({name!r}, bf16={bf16}))"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
            )
            told, taken = (int(number) for number in done.stdout.split())
            row = {
                "date": datetime.now(UTC).date().isoformat(),
                "processor": environment["processor"],
                "torch": torch.__version__,
                "network": name,
                "crop": "x".join(str(side) for side in CROP),
                "batch": BATCH,
                "bf16": bf16,
                "told_gb": round(told / 1e9, 2),
                "taken_gb": round(taken / 1e9, 2),
            }
            rows.append(row)
            print(f"{name} bf16={bf16}: told {row['told_gb']} GB, taken {row['taken_gb']} GB", flush=True)
    with Path(__file__).with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
