"""What the machine computes fast, and how much memory it has left."""

import os
from pathlib import Path

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


def free_memory(device: torch.device) -> int:
    """Bytes of memory that a device has left, on the CPU within the limit of a container.

    Where the system does not tell, 4 GiB are assumed.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _free_main_memory()
    limit, used = (_number_in(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return free if limit is None else max(min(free, limit - (used or 0)), 0)


def _free_main_memory() -> int:
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        # Unlike the pages that sysconf calls free, this counts what the system keeps of files and can drop.
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def _number_in(path: str) -> int | None:
    """The number in a file of the kernel; None if there is no such file or no number in it."""
    file = Path(path)
    text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
    return int(text) if text.isdigit() else None
