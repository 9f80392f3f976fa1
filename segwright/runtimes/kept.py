"""Engines that are made once and kept beside the segmenter, so that the next start needs neither PyTorch nor time."""

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from segwright.inference.description import Description
from segwright.inference.engine import Engine
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.conversion import to_onnx, to_openvino
from segwright.runtimes.folder import RECORD, EngineRecord, Runtime, segmenter_key, user_folder, write_record
from segwright.runtimes.torch import TorchEngine

TOLERANCE = 0.01
"""Largest difference of logits in float32 that is taken for rounding, as a share of the largest logit."""


def keep(folder: Path, runtime: Runtime, open_engine: Callable[[Path, EngineRecord, Description], Engine]) -> Path:
    """Make an engine of a segmenter, check it on noise, and keep it.

    It goes beside the segmenter, or where the user's programs keep such things if the segmenter's folder cannot be
    written. Engines of earlier weights are removed.

    Args:
        folder: Of the segmenter.
        runtime: "openvino" or "onnxruntime".
        open_engine: Opens what was made, to compute in float32.

    Raises:
        ValueError: If the network cannot be converted, or the engine gives other logits than PyTorch.
    """
    segmenter, key = Segmenter.load(folder), segmenter_key(folder)
    parent = folder / "engines" if os.access(folder, os.W_OK) else user_folder()
    parent.mkdir(parents=True, exist_ok=True)
    # Several processes may make it at once; each has a folder of its own, and the first one to finish stays.
    with tempfile.TemporaryDirectory(prefix="making-", dir=parent) as making:
        made = Path(making) / "engine"
        made.mkdir()
        record = convert(segmenter, runtime, made, key)
        check_on_noise(segmenter, open_engine(made, record, segmenter.description))
        write_record(made, record, segmenter.description)
        place = parent / f"{runtime}-{key}"
        try:
            made.rename(place)
        except OSError:
            if not (place / RECORD).is_file():
                raise
    for other in parent.glob(f"{runtime}-*"):
        if parent.name == "engines" and other != place:
            shutil.rmtree(other, ignore_errors=True)
    return place


def convert(
    segmenter: Segmenter, runtime: Runtime, folder: Path, key: str, *, half_weights: bool = False
) -> EngineRecord:
    """Write the file of an engine into a folder, without a record.

    Args:
        segmenter: A segmenter in evaluation mode, on the CPU.
        runtime: "openvino" or "onnxruntime".
        folder: Where to.
        key: Of the segmenter.
        half_weights: Store the weights for OpenVINO in float16.

    Raises:
        ValueError: If the library or what converts for it is not installed.
    """
    if runtime == "openvino":
        import openvino  # noqa: PLC0415 - an optional library

        openvino.save_model(to_openvino(segmenter), folder / "model.xml", compress_to_fp16=half_weights)
        return make_record(segmenter, runtime, "model.xml", key, "openvino")
    import onnx  # noqa: PLC0415 - an optional library

    onnx.save(to_onnx(segmenter), folder / "model.onnx")
    return make_record(segmenter, runtime, "model.onnx", key, "onnx")


def make_record(segmenter: Segmenter, runtime: Runtime, file: str, key: str, *packages: str) -> EngineRecord:
    """The record of a file that was made just now, in float32."""
    versions = {name: version(name) for name in ("segwright", "torch", *packages)}
    return EngineRecord(runtime, "fp32", file, segmenter.stride, segmenter.margin, key, versions)


def check_on_noise(segmenter: Segmenter, engine: Engine) -> None:
    """Compare an engine that computes in float32 with PyTorch on noise of two sizes.

    Raises:
        ValueError: If the logits differ by more than rounding.
    """
    expected = TorchEngine(segmenter, precision="fp32")
    description, stride = segmenter.description, segmenter.stride
    random = np.random.default_rng(0)
    for size in ((2 * stride + 3, 3 * stride + 1), (5 * stride, 4 * stride - 1)):
        noise = random.normal(description.mean, description.std, (1, *size, description.in_channels))
        if description.dtype != "float32":
            noise = noise.clip(0, np.iinfo(description.dtype).max).round()
        images = noise.astype(description.dtype)
        logits = [one(images, with_logits=True).logits for one in (expected, engine)]
        assert logits[0] is not None
        assert logits[1] is not None
        largest = float(np.abs(logits[0]).max())
        difference = float(np.abs(logits[0] - logits[1]).max()) / max(largest, 1e-6)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{engine.runtime} gives other logits than PyTorch for {description.network} (by {difference:.1%} of "
                "the largest on noise); use --runtime torch"
            )
