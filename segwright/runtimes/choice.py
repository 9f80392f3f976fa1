"""Which library runs a segmenter here: the fastest that is installed, unless one is asked for."""

import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from segwright.inference.description import Description, find_segmenter
from segwright.inference.engine import Engine
from segwright.runtimes.folder import RECORD, EngineRecord, Runtime, kept_folder, read_record, segmenter_key

Wanted = Literal["auto", "torch", "compile", "openvino", "onnxruntime", "tensorrt"]
Device = Literal["auto", "cpu", "cuda"]


def open_engine(folder: Path, *, runtime: Wanted = "auto", precision: str = "auto", device: Device = "auto") -> Engine:
    """Make a segmenter ready to run.

    "auto" takes PyTorch on a GPU if there is one, else OpenVINO, else ONNX Runtime where the processor has no bfloat16
    in hardware, else PyTorch. A network that OpenVINO or ONNX Runtime cannot take then runs on PyTorch, and the
    engine's `runtime` says so. Engines of these are made once and kept beside the segmenter.

    Args:
        folder: Of a segmenter, of a run that holds one, or of an export.
        runtime: Library to use; "compile" is PyTorch with a compiled network.
        precision: "bf16", "fp32", or "auto": bf16 where the hardware has it.
        device: "auto" takes a GPU if there is one.

    Raises:
        ValueError: If the folder holds no segmenter or a damaged one, the library or the GPU that is asked for is
            absent, or the library cannot run this network.
    """
    if (folder / RECORD).is_file():
        return _open_export(folder, runtime, precision, device)
    folder = find_segmenter(folder)
    if runtime == "auto":
        return _open_fastest(folder, precision, device)
    if runtime in ("torch", "compile"):
        return _open_torch(folder, precision, device, is_compiled=runtime == "compile")
    return _open_kept(folder, runtime, precision, device)  # type: ignore[arg-type]


def _open_fastest(folder: Path, precision: str, device: Device) -> Engine:
    # nvidia-smi comes with the driver; asking torch would take seconds that a processor alone need not wait for.
    if device == "cuda" or (device == "auto" and shutil.which("nvidia-smi")):
        return _open_torch(folder, precision, device, is_compiled=False)
    runtime = _fastest_on_processor()
    if runtime is None:
        return _open_torch(folder, precision, device, is_compiled=False)
    refused = folder / "engines" / f"{runtime}-{segmenter_key(folder)}.refused"
    if not refused.is_file():
        try:
            return _open_kept(folder, runtime, precision, device)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            refused.parent.mkdir(exist_ok=True)
            refused.write_text(reason, encoding="utf-8")
    note = f" ({runtime} cannot take this network; {refused} says why)"
    return _open_torch(folder, precision, device, is_compiled=False, note=note)


def _fastest_on_processor() -> Runtime | None:
    """OpenVINO if it is installed; ONNX Runtime if it is and PyTorch would compute in float32 as well."""
    if find_spec("openvino"):
        return "openvino"
    if not all(map(find_spec, ("onnxruntime", "onnx", "onnxscript"))):
        return None
    import torch  # noqa: PLC0415 - takes seconds

    from segwright.layers.hardware import has_bf16  # noqa: PLC0415 - loads torch

    return None if has_bf16(torch.device("cpu")) else "onnxruntime"


def _open_torch(folder: Path, precision: str, device: Device, *, is_compiled: bool, note: str = "") -> Engine:
    from segwright.inference.segmenter import Segmenter  # noqa: PLC0415 - loads torch
    from segwright.layers.hardware import choose_device  # noqa: PLC0415 - loads torch
    from segwright.runtimes.torch import TorchEngine  # noqa: PLC0415 - loads torch

    segmenter = Segmenter.load(folder).to(choose_device(device))
    return TorchEngine(segmenter, precision=precision, is_compiled=is_compiled, note=note)


def _open_kept(folder: Path, runtime: Runtime, precision: str, device: Device) -> Engine:
    refuse_absent(runtime)
    place = kept_folder(folder, runtime)
    if place is None:
        from segwright.runtimes.kept import keep  # noqa: PLC0415 - loads torch

        place = keep(folder, runtime, partial(_open_file, precision="fp32", device="cpu"))
    precision = "fastest" if precision == "auto" else precision
    return _open_file(place, *read_record(place), precision=precision, device=device)


def _open_export(folder: Path, runtime: Wanted, precision: str, device: Device) -> Engine:
    record, description = read_record(folder)
    if runtime not in ("auto", record.runtime):
        raise ValueError(f"{folder} is an export for {record.runtime}, not {runtime}; leave out --runtime")
    refuse_absent(record.runtime)
    return _open_file(folder, record, description, precision=precision, device=device)


def _open_file(
    folder: Path, record: EngineRecord, description: Description, *, precision: str, device: Device
) -> Engine:
    """The engine of a folder whose library is installed; each module imports its library."""
    if record.runtime == "openvino":
        from segwright.runtimes.openvino import OpenVINOEngine  # noqa: PLC0415

        return OpenVINOEngine(folder, record, description, precision=precision)
    if record.runtime == "onnxruntime":
        from segwright.runtimes.onnxruntime import ONNXRuntimeEngine  # noqa: PLC0415

        return ONNXRuntimeEngine(folder, record, description, device=device)
    if record.runtime == "tensorrt":
        from segwright.runtimes.tensorrt import TensorRTEngine  # noqa: PLC0415

        return TensorRTEngine(folder, record, description)
    from segwright.runtimes.program import ProgramEngine  # noqa: PLC0415

    return ProgramEngine(folder, record, description, precision=precision, device=device)


def refuse_absent(runtime: Runtime) -> None:
    """Refuse a library that is not installed.

    Raises:
        ValueError: With what to install.
    """
    needs = {
        "torch": "",
        "openvino": 'pip install "segwright[fast]"',
        "onnxruntime": 'pip install "segwright[export]"',
        "tensorrt": "pip install tensorrt, on a machine with an NVIDIA GPU",
    }
    if find_spec(runtime) is None:
        raise ValueError(f"{runtime} is not installed, but this needs it; {needs[runtime]}")
