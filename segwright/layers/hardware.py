"""What the processor computes fast."""

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware: a GPU since Ampere, a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # torch has no public question for this; cpuinfo's flags would tell on Linux only.
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False
