"""What the machine computes fast, and how much memory it has left."""

from pathlib import Path

import psutil
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


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether networks compute in bfloat16: if "bf16" asks for it, or with "auto" where the device has it."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def free_memory(device: torch.device) -> int:
    """Bytes of memory that a device has left; on the CPU within the limit of a container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    limit, used = (_numbers_in(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if not limit or not used:
        return free
    # What the system keeps of files counts as used there, but makes way for a program.
    files = sum(_numbers_in("/sys/fs/cgroup/memory.stat").get(f"{kind}_file", 0) for kind in ("active", "inactive"))
    return max(min(free, limit[""] - used[""] + files), 0)


def _numbers_in(path: str) -> dict[str, int]:
    """Numbers of a file of the kernel by their names, "" for one without; none if there is no such file."""
    file = Path(path)
    lines = file.read_text(encoding="ascii").splitlines() if file.is_file() else []
    named = (line.rpartition(" ") for line in lines)
    return {name: int(number) for name, _, number in named if number.isdigit()}
