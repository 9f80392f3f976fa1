"""Export a segmenter for another engine, with the proof that its masks are the same, or not at all."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from segwright.deployment.proof import Proof, compare, least_equal, measure
from segwright.deployment.samples import calibration_samples, check_samples, proof_samples
from segwright.deployment.triton import arrange_repository
from segwright.inference.description import Description, find_segmenter
from segwright.inference.graph import trace
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.choice import open_engine, refuse_absent
from segwright.runtimes.folder import EngineRecord, Precision, Runtime, segmenter_key, write_record
from segwright.runtimes.kept import convert, make_record
from segwright.runtimes.torch import TorchEngine

Target = Literal["onnx", "openvino", "tensorrt", "torch", "triton"]

PRECISIONS: dict[Target, tuple[Precision, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "fp16", "int8"),
    "tensorrt": ("fp32", "bf16", "fp16"),
    "torch": ("fp32", "bf16"),
    "triton": ("fp32", "int8"),
}
"""Number formats of each target. The first is what is taken if none is asked for."""

CALIBRATION_IMAGES, CHECK_IMAGES = 64, 16
ALLOWED_CHANGES = (1.0, 0.5, 0.25)
"""Of the pixels that the tolerance allows to change, the share that an int8 network may change on the images of its
check; less if too many change on those of the proof."""

Layers = tuple[dict[str, Any], ...]
"""Of an int8 export, every layer with whether it computes in int8 and what that does to the logits."""
Attempt = tuple[EngineRecord, Layers]

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
    layers: Layers = ()


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
        say(f"Predicting {len(samples)} images in PyTorch")
        reference = measure(TorchEngine(loaded, precision="fp32"), samples)
        say(f"Converting for {to}")
        if precision == "int8":
            attempts: Iterable[Attempt] = _write_int8(
                loaded, made, to, source=source, data=data, in_proof=images, say=say
            )
        else:
            attempts = [(_write(loaded, made, to, precision, segmenter_key(source)), ())]

        def prove() -> Proof:
            say(f"Predicting {len(samples)} images in the export")
            return compare(reference, measure(open_engine(made), samples), precision)

        record, layers, proof = _first_that_holds(attempts, made, loaded.description, prove)
        if to == "triton":
            record = arrange_repository(made, record, loaded.description)
        write_record(made, replace(record, proof=proof.to_dict() | {"layers": layers}), loaded.description)
        shutil.rmtree(made / "compiled", ignore_errors=True)  # of the machine that exported
        made.rename(out)
    return Exported(out, out / record.file, proof, layers)


def _first_that_holds(
    attempts: Iterable[Attempt], made: Path, description: Description, prove: Callable[[], Proof]
) -> tuple[EngineRecord, Layers, Proof]:
    """The first attempt, each written to `made` in turn, whose masks are those of the segmenter."""
    for record, layers in attempts:
        write_record(made, record, description)
        proof = prove()
        if proof.holds:
            return record, layers, proof
    raise ExportRefusedError(proof)


def _check(out: Path, to: Target, precision: Precision) -> None:
    if out.exists():
        raise ValueError(f"{out} exists already; give another folder with --out")
    if precision not in PRECISIONS[to]:
        raise ValueError(
            f"precision is {precision}, but --to {to} has {', '.join(PRECISIONS[to])}; choose one of these"
        )
    refuse_absent(_RUNTIMES[to])


def _write(segmenter: Segmenter, folder: Path, to: Target, precision: Precision, key: str) -> EngineRecord:
    """Write the network's file in floating point."""
    runtime = _RUNTIMES[to]
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
    return replace(record, precision=precision)


def _write_int8(
    segmenter: Segmenter,
    folder: Path,
    to: Target,
    *,
    source: Path,
    data: Path | None,
    in_proof: int,
    say: Callable[[str], None],
) -> Iterator[Attempt]:
    """Write the network's file in int8, each time with fewer layers in it: what the check allows, the proof may not.

    Yields:
        The record, and what became of the layers.
    """
    from segwright.compression.quantize import Quantizer  # noqa: PLC0415 - an optional library, slow to load
    from segwright.compression.search import TooManyChangesError  # noqa: PLC0415 - with it

    runtime, description = _RUNTIMES[to], segmenter.description
    assert runtime in ("openvino", "onnxruntime")
    images, check = (
        [sample.image for sample in samples]
        for samples in (
            calibration_samples(description, source, data, CALIBRATION_IMAGES),
            check_samples(description, source, data, CHECK_IMAGES, in_proof=in_proof),
        )
    )
    quantizer = Quantizer(segmenter, images, runtime, check=check, progress=say)
    for share in ALLOWED_CHANGES:
        try:
            quantized = quantizer.quantize(1 - share * (1 - least_equal("int8")))
        except TooManyChangesError:
            if share == ALLOWED_CHANGES[0]:
                raise
            return
        record = _save_int8(quantized.model, folder, segmenter, runtime, segmenter_key(source))
        yield replace(record, precision="int8"), tuple(map(asdict, quantized.layers))


def _save_int8(
    model: Any,  # noqa: ANN401 - openvino.Model or onnx.ModelProto
    folder: Path,
    segmenter: Segmenter,
    runtime: Runtime,
    key: str,
) -> EngineRecord:
    if runtime == "openvino":
        import openvino  # noqa: PLC0415 - an optional library

        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        return make_record(segmenter, runtime, "model.xml", key, "openvino", "nncf")
    import onnx  # noqa: PLC0415 - an optional library

    onnx.save(model, folder / "model.onnx")
    return make_record(segmenter, runtime, "model.onnx", key, "onnx", "nncf")
