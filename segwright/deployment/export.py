"""Export a segmenter for another engine, with the proof that its masks are the same, or not at all."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from segwright.deployment.proof import Proof, compare, measure
from segwright.deployment.samples import calibration_samples, proof_samples
from segwright.deployment.triton import arrange_repository
from segwright.inference.description import find_segmenter
from segwright.inference.graph import trace
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.choice import open_engine, refuse_absent
from segwright.runtimes.folder import EngineRecord, Precision, Runtime, segmenter_key, write_record
from segwright.runtimes.kept import convert, make_record
from segwright.runtimes.torch import TorchEngine
from segwright.types import Image

Target = Literal["onnx", "openvino", "tensorrt", "torch", "triton"]

PRECISIONS: dict[Target, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "tensorrt": ("fp32", "bf16", "fp16"),
    "torch": ("fp32", "bf16"),
    "triton": ("fp32", "int8"),
}
"""Number formats of each target. The first is what is taken if none is asked for."""

CALIBRATION_IMAGES = 64

_RUNTIMES: dict[Target, Runtime] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "torch": "torch",
    "triton": "onnxruntime",
}


class ExportRefusedError(RuntimeError):
    """An export whose masks are not those of the segmenter; nothing was left behind.

    Attributes:
        proof: What was found.
    """

    def __init__(self, proof: Proof) -> None:
        delta = "" if proof.delta_miou is None else f" and the mIoU changes by {proof.delta_miou:+.2f} points"
        super().__init__(
            f"{proof.runtime} gives the same class on {100 * proof.equal:.3f} % of the pixels{delta}, but "
            f"{100 * proof.least_equal:g} % and at most 0.5 points are needed, so nothing was exported; try another "
            "precision, or train longer, since an unsure segmenter tips easily"
        )
        self.proof = proof


@dataclass(frozen=True)
class Exported:
    """An export.

    Attributes:
        folder: Where it is; `segwright.load` takes it.
        file: The network's file inside.
        proof: How its masks compare with the segmenter's.
        layers: Of an int8 export, every layer with whether it computes in int8 and what that does to the logits.
    """

    folder: Path
    file: Path
    proof: Proof
    layers: tuple[dict[str, Any], ...] = ()


def export(
    segmenter: Path | str,
    out: Path | str,
    *,
    to: Target = "onnx",
    precision: Precision | None = None,
    data: Path | None = None,
    images: int = 32,
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Write a segmenter for another engine, from raw pixels to classes, after proving that the masks are the same.

    The file takes images as uint8 (B, H, W, C) of any size, or float32 for training images of uint16 and float32, and
    gives `mask`, uint8 (B, H, W), and `logits`, float32 (B, K, H, W). Mirroring at the border, normalization and the
    choice of the class are inside. The folder appears when the proof holds.

    Args:
        segmenter: Folder of a segmenter or of a run.
        out: Folder to write; it must not exist.
        to: Engine; "triton" is a model repository of Triton Inference Server.
        precision: Number format; the first that `PRECISIONS` has for the engine if none is given.
        data: Folder with images, and masks if the mIoU is to be compared; the training data by default.
        images: Images of the proof at most.
        progress: Called with what is being done.

    Raises:
        ValueError: If the folder exists, the engine has no such format or is not installed, or there are no images.
        ExportRefusedError: If the masks differ by more than the tolerance.
    """
    source, out = find_segmenter(Path(segmenter)), Path(out)
    precision = PRECISIONS[to][0] if precision is None else precision
    _check(out, to, precision)
    say = progress or (lambda _: None)
    loaded = Segmenter.load(source)
    samples = proof_samples(loaded.description, source, data, images)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as making:
        made = Path(making) / "export"
        made.mkdir()
        say(f"Converting for {to}")
        record, layers = _write(loaded, made, to, precision, source=source, data=data, say=say)
        if to == "triton":
            record = arrange_repository(made, record, loaded.description)
        write_record(made, record, loaded.description)
        say(f"Predicting {len(samples)} images in PyTorch")
        reference = measure(TorchEngine(loaded, precision="fp32"), samples)
        say(f"Predicting {len(samples)} images in the export")
        proof = compare(reference, measure(open_engine(made), samples), precision)
        if not proof.holds:
            raise ExportRefusedError(proof)
        write_record(made, replace(record, proof=proof.to_dict() | {"layers": layers}), loaded.description)
        shutil.rmtree(made / "compiled", ignore_errors=True)  # of the machine that exported
        made.rename(out)
    return Exported(out, out / record.file, proof, layers)


def _check(out: Path, to: Target, precision: Precision) -> None:
    if out.exists():
        raise ValueError(f"{out} exists already; give another folder with --out")
    if precision not in PRECISIONS[to]:
        raise ValueError(
            f"precision is {precision}, but --to {to} has {', '.join(PRECISIONS[to])}; choose one of these"
        )
    refuse_absent(_RUNTIMES[to])


def _write(
    segmenter: Segmenter,
    folder: Path,
    to: Target,
    precision: Precision,
    *,
    source: Path,
    data: Path | None,
    say: Callable[[str], None],
) -> tuple[EngineRecord, tuple[dict[str, Any], ...]]:
    """Write the network's file; its record, and the layers of an int8 export."""
    runtime, key = _RUNTIMES[to], segmenter_key(source)
    if precision == "int8":
        images = calibration_samples(segmenter.description, source, data, CALIBRATION_IMAGES)
        return _write_int8(segmenter, folder, runtime, key, [sample.image for sample in images], say)
    if to == "torch":
        torch.export.save(trace(segmenter), folder / "model.pt2")
        record = make_record(segmenter, "torch", "model.pt2", key)
    elif to == "tensorrt":
        from segwright.runtimes.tensorrt import build_plan  # noqa: PLC0415 - an optional library

        onnx_record = convert(segmenter, "onnxruntime", folder, key)
        tiling, in_channels = segmenter.description.tiling, segmenter.description.in_channels
        plan = build_plan(folder / onnx_record.file, tiling, in_channels, precision)
        (folder / onnx_record.file).unlink()
        (folder / "model.plan").write_bytes(plan)
        record = make_record(segmenter, "tensorrt", "model.plan", key, "tensorrt")
    else:
        record = convert(segmenter, runtime, folder, key, half_weights=precision == "fp16")
    return replace(record, precision=precision), ()


def _write_int8(
    segmenter: Segmenter, folder: Path, runtime: Runtime, key: str, images: list[Image], say: Callable[[str], None]
) -> tuple[EngineRecord, tuple[dict[str, Any], ...]]:
    from segwright.compression.quantize import quantize  # noqa: PLC0415 - an optional library, slow to load

    assert runtime in ("openvino", "onnxruntime")
    quantized = quantize(segmenter, images, runtime, progress=say)
    layers = tuple(
        {"name": layer.name, "kind": layer.kind, "is_int8": layer.is_int8, "harm": layer.harm}
        for layer in quantized.layers
    )
    if runtime == "openvino":
        import openvino  # noqa: PLC0415 - an optional library

        openvino.save_model(quantized.model, folder / "model.xml", compress_to_fp16=False)
        record = make_record(segmenter, runtime, "model.xml", key, "openvino", "nncf")
    else:
        import onnx  # noqa: PLC0415 - an optional library

        onnx.save(quantized.model, folder / "model.onnx")
        record = make_record(segmenter, runtime, "model.onnx", key, "onnx", "nncf")
    return replace(record, precision="int8"), layers
