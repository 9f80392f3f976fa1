"""Gradients of convolution weights in bfloat16 on the CPU, against those in float32, channels-last and contiguous.

A relative error of a few thousandths is the rounding of bfloat16. Two kinds of channels-last convolutions leave parts
of the gradient of their weights unset, or crash, because oneDNN runs over the end of its buffers: padded ones that step
over a map narrower than their stride, and dilated ones with a step of 1 whose groups do not have a multiple of 16
channels. The error is then whatever the memory held. `segwright/layers/bfloat16.py` has training take the contiguous
layout there. Each case runs in a process of its own.

    python benchmarks/bfloat16_gradients.py
"""

import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from results import machine, write_row

RESULTS = Path(__file__).with_suffix(".csv")
CASES = [  # input channels, output channels, groups, kernel, stride, dilation, height and width of the map
    (64, 64, 1, 3, 1, 1, 1, 1), (64, 64, 1, 3, 2, 1, 3, 3), (64, 64, 1, 3, 2, 1, 2, 2), (64, 64, 1, 3, 2, 1, 1, 5),
    (64, 64, 1, 3, 2, 1, 5, 1), (64, 64, 1, 3, 2, 1, 1, 1), (64, 64, 1, 5, 2, 1, 2, 1), (64, 64, 1, 3, 4, 1, 2, 2),
    (64, 64, 1, 1, 2, 1, 1, 1), (40, 40, 1, 3, 1, 1, 40, 48), (40, 40, 1, 3, 1, 2, 40, 48),
    (40, 40, 1, 3, 1, 6, 40, 48), (48, 40, 1, 3, 1, 6, 40, 48), (16, 40, 1, 3, 1, 6, 40, 48),
    (12, 40, 1, 3, 1, 6, 40, 48), (3, 40, 1, 3, 1, 2, 40, 48), (40, 40, 1, 3, 2, 6, 40, 48),
    (64, 64, 64, 3, 1, 1, 40, 48), (64, 64, 64, 3, 1, 2, 40, 48), (64, 64, 64, 3, 2, 2, 40, 48),
    (256, 256, 256, 3, 1, 12, 20, 24), (128, 128, 32, 3, 1, 1, 40, 48), (128, 128, 32, 3, 1, 2, 40, 48),
    (64, 64, 4, 3, 1, 2, 40, 48), (40, 40, 1, 7, 1, 2, 40, 48), (40, 40, 1, 1, 1, 2, 40, 48),
]  # fmt: skip
REPEATS = 20


def worst_error(case: tuple[int, ...], layout: torch.memory_format) -> float:
    """Largest error of a gradient over some draws, relative to the largest gradient."""
    in_channels, out_channels, groups, kernel_size, stride, dilation, height, width = case
    settings = {"stride": stride, "padding": dilation * (kernel_size // 2), "dilation": dilation, "groups": groups}
    worst = 0.0
    for _ in range(REPEATS):
        weight = torch.randn(out_channels, in_channels // groups, kernel_size, kernel_size)
        weight = weight.to(memory_format=layout).requires_grad_()
        x = torch.randn(2, in_channels, height, width).to(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16):
            y = F.conv2d(x, weight, **settings)
        direction = torch.randn_like(y)
        rounded = torch.autograd.grad(y, weight, direction)[0]
        exact = torch.autograd.grad(F.conv2d(x, weight, **settings), weight, direction.float())[0]
        worst = max(worst, float(((rounded - exact).abs().max() / exact.abs().max()).nan_to_num(float("inf"))))
    return worst


def run(case: tuple[int, ...], layout: str) -> str:
    """The error of a case, or that it crashed."""
    code = f"import bfloat16_gradients as b, torch; print(b.worst_error({case}, torch.{layout}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, check=False, capture_output=True, text=True
    )
    return f"{float(done.stdout):.1g}" if done.returncode == 0 else "crash"


def main() -> None:
    RESULTS.unlink(missing_ok=True)
    for case in CASES:
        errors = {name: run(case, name) for name in ("channels_last", "contiguous_format")}
        names = ("in_channels", "out_channels", "groups", "kernel", "stride", "dilation", "height", "width")
        row = machine() | dict(zip(names, case, strict=True))
        row |= {"channels_last_error": errors["channels_last"], "contiguous_error": errors["contiguous_format"]}
        write_row(RESULTS, row | {"command": "python benchmarks/bfloat16_gradients.py"})
        print(case, *errors.values(), flush=True)


if __name__ == "__main__":
    main()
