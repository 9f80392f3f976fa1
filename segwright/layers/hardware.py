"""What the processor computes fast."""

import torch


def choose_device(wanted: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; auto takes a GPU if there is one.

    Raises:
        ValueError: If a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ValueError(
            "the device is cuda, but torch sees no GPU on this machine; use --device cpu, or install a GPU driver and "
            "a CUDA build of torch"
        )
    return torch.device("cuda" if has_gpu and wanted != "cpu" else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware: a GPU since Ampere, a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # torch has no public question for this; cpuinfo's flags would tell on Linux only.
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False
