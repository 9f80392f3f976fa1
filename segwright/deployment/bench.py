"""How fast each engine runs a segmenter on this machine, what memory it takes, and whether its masks are the same."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import psutil

from segwright.deployment.proof import Measured, Proof, compare, measure
from segwright.deployment.samples import proof_samples
from segwright.inference.description import find_segmenter, read_description
from segwright.runtimes.choice import Device, Wanted, open_engine
from segwright.runtimes.folder import RECORD
from segwright.types import Sample


@dataclass(frozen=True)
class Row:
    """One engine.

    Attributes:
        name: Library and number format, or the folder of an export.
        proof: Its masks and its time against the first engine, PyTorch in float32; None if it could not run.
        memory_mb: Largest resident memory of a process that loads and runs it, in megabytes.
        problem: Why it could not run.
    """

    name: str
    proof: Proof | None = None
    memory_mb: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class _Entry:
    folder: Path
    runtime: Wanted
    precision: str


def bench(
    folder: Path,
    exports: Sequence[Path] = (),
    *,
    data: Path | None = None,
    images: int = 16,
    device: Device = "auto",
    compiled: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Run a segmenter on every engine that is installed, each in a process of its own.

    Args:
        folder: Of a segmenter or of a run.
        exports: Folders of exports to measure too.
        data: Folder with images, and masks if the mIoU is to be compared; the training data by default.
        images: Images at most.
        device: Where PyTorch and ONNX Runtime compute.
        compiled: Try PyTorch with a compiled network too, which takes up to a minute for each size of images.
        progress: Called with the engine that is next.

    Raises:
        ValueError: If there is no segmenter or there are no images.
    """
    source = find_segmenter(folder)
    samples = proof_samples(read_description(source), source, data, images)
    reference: Measured | None = None
    rows = []
    for entry in [*_installed(source, compiled=compiled), *(_Entry(export, "auto", "auto") for export in exports)]:
        name = str(entry.folder) if (entry.folder / RECORD).is_file() else f"{entry.runtime}, {entry.precision}"
        if progress:
            progress(name)
        try:
            found, memory_mb = _in_process(entry, samples, device)
        except (ValueError, RuntimeError, BrokenProcessPool) as error:
            rows.append(Row(name, problem=" ".join(str(error).split())))
            continue
        reference = found if reference is None else reference
        title = f"{name} ({found.runtime})" if entry.folder != source else found.runtime
        precision = "fp32" if found.runtime.endswith("fp32") else "less"
        rows.append(Row(title, compare(reference, found, precision), memory_mb))
    return rows


def _installed(source: Path, *, compiled: bool) -> Iterator[_Entry]:
    """The engines that can be tried, the reference first."""
    import torch  # noqa: PLC0415 - takes seconds

    from segwright.layers.hardware import choose_device, has_bf16  # noqa: PLC0415 - loads torch

    yield _Entry(source, "torch", "fp32")
    is_fast = has_bf16(choose_device("auto"))
    if is_fast:
        yield _Entry(source, "torch", "bf16")
    if compiled:
        yield _Entry(source, "compile", "auto")
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        yield _Entry(source, "onnxruntime", "fp32")
    if find_spec("openvino"):
        yield _Entry(source, "openvino", "fp32")
        if has_bf16(torch.device("cpu")):
            yield _Entry(source, "openvino", "bf16")


def _in_process(entry: _Entry, samples: Sequence[Sample], device: Device) -> tuple[Measured, float]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_load_and_measure, entry, samples, device).result()


def _load_and_measure(entry: _Entry, samples: Sequence[Sample], device: Device) -> tuple[Measured, float]:
    # What an engine needs to be made is no part of running it.
    if entry.runtime in ("openvino", "onnxruntime"):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            pool.submit(_open, entry, device).result()
    found = measure(open_engine(entry.folder, runtime=entry.runtime, precision=entry.precision, device=device), samples)
    return found, _peak_mb()


def _open(entry: _Entry, device: Device) -> None:
    open_engine(entry.folder, runtime=entry.runtime, precision=entry.precision, device=device)


def _peak_mb() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    memory = psutil.Process().memory_info()
    return float(getattr(memory, "peak_wset", memory.rss)) / 2**20
