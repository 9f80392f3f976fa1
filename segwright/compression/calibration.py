"""NNCF's part: it finds the ranges of all values on images and puts quantizers into the graph."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Shaped

from segwright.inference.graph import INPUT


def calibrate(
    model: Any,  # noqa: ANN401 - openvino.Model or onnx.ModelProto
    images: Sequence[Shaped[np.ndarray, "_ _ C"]],
    kept: Sequence[str],
    tell: Callable[[str], None],
) -> Any:  # noqa: ANN401
    """The network with all operations in int8 that gain by it, but for some.

    Args:
        model: The network in floating point; it stays as it is.
        images: What the ranges are taken from, in the type that the network takes, of any sizes.
        kept: Names of operations that stay in floating point.
        tell: Is called with each step.

    Raises:
        ValueError: If NNCF is not installed.
    """
    nncf = _import_nncf()
    numbers = iter(range(1, len(images) + 1))
    standard_output = sys.stdout

    def sample(image: Shaped[np.ndarray, "H W C"]) -> dict[str, Shaped[np.ndarray, "1 H W C"]]:
        with contextlib.redirect_stdout(standard_output):
            tell(f"calibrating on image {next(numbers, len(images))} of {len(images)}")
        return {INPUT: image[None]}

    with _silence():
        # One range for all channels of a map, also before depthwise convolutions: NNCF takes the second axis for
        # channels, but in transformers that is the height, and the network would be bound to one height. DeepLabV3+
        # ResNet-34 with separable convolutions: 98.53 % of the pixels keep their class, with a range for each channel
        # 98.55 %.
        one_range = nncf.quantization.advanced_parameters.QuantizationParameters(per_channel=False)
        # Symmetric ranges. U-Net ResNet-34 on CamVid, 20 images: 99.78 % of the pixels keep their class on OpenVINO and
        # 99.79 % on ONNX Runtime, with asymmetric ranges 99.74 and 99.75 %, in the same time. No correction of biases,
        # which fits them to the images of the calibration: with it fewer pixels keep their class on validation images,
        # 99.28 instead of 99.55 % (U-Net) and 98.94 instead of 99.37 % (DeepLabV3+, both ResNet-34, all layers).
        return nncf.quantize(
            model,
            nncf.Dataset(images, sample),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_quantization_params=one_range, disable_bias_correction=True
            ),
        )


def _import_nncf() -> Any:  # noqa: ANN401 - it has no types
    if find_spec("nncf") is None:
        raise ValueError('quantization needs nncf, but it is not installed; pip install "segwright[fast]"')
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # If this is set when it is loaded, it does not report its use to its makers.
    try:
        with _silence():
            import nncf  # noqa: PLC0415 - an optional library
    finally:
        del os.environ["NNCF_CI"]
        os.environ.update({} if before is None else {"NNCF_CI": before})
    return nncf


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the messages and progress bars of NNCF, and of what it loads of torch, from the screen."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    were_disabled = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, was_disabled in zip(loggers, were_disabled, strict=True):
            logger.disabled = was_disabled
