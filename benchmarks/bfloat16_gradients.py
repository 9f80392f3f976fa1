"""Gradients of convolution weights in bfloat16 on the CPU, against those in float32, for maps smaller than the stride.

A relative error of a few thousandths is the rounding of bfloat16. Where a padded convolution steps over a map that is
narrower than its stride, parts of the gradient are never written: the error is whatever the memory held. Training
computes in float32 where a network would meet that (`segwright/planning/machine.py`).

    python benchmarks/bfloat16_gradients.py
"""

import csv
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F

from segwright.run_folder import describe_environment

CASES = [  # kernel, stride, height and width of the map
    (3, 1, (1, 1)), (3, 2, (3, 3)), (3, 2, (2, 2)), (3, 2, (1, 5)), (3, 2, (5, 1)), (3, 2, (1, 1)), (5, 2, (2, 1)),
    (3, 4, (2, 2)), (1, 2, (1, 1)),
]  # fmt: skip
CHANNELS, REPEATS = 64, 20


def worst_error(kernel_size: int, stride: int, size: tuple[int, int]) -> float:
    """Largest error of a gradient over some draws, relative to the largest gradient."""
    worst = 0.0
    for _ in range(REPEATS):
        weight = torch.randn(CHANNELS, CHANNELS, kernel_size, kernel_size)
        weight = weight.to(memory_format=torch.channels_last).requires_grad_()
        x = torch.randn(4, CHANNELS, *size).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            y = F.conv2d(x, weight, stride=stride, padding=kernel_size // 2)
        direction = torch.randn_like(y)
        rounded = torch.autograd.grad(y, weight, direction)[0]
        exact_y = F.conv2d(x, weight, stride=stride, padding=kernel_size // 2)
        exact = torch.autograd.grad(exact_y, weight, direction.float())[0]
        worst = max(worst, float(((rounded - exact).abs().max() / exact.abs().max()).nan_to_num(float("inf"))))
    return worst


def main() -> None:
    environment = describe_environment()
    rows = [
        {
            "date": datetime.now(UTC).date().isoformat(),
            "processor": environment["processor"],
            "torch": torch.__version__,
            "kernel": kernel_size,
            "stride": stride,
            "map": "x".join(str(side) for side in size),
            "worst_relative_error": f"{worst_error(kernel_size, stride, size):.1g}",
        }
        for kernel_size, stride, size in CASES
    ]
    with Path(__file__).with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"kernel {row['kernel']} stride {row['stride']} map {row['map']}: {row['worst_relative_error']}")


if __name__ == "__main__":
    main()
