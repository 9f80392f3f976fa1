"""Tests of the models that engines read."""

import gc
import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from segwright.data.encoding import MaskEncoding
from segwright.inference.description import Description
from segwright.inference.graph import MaskGraph
from segwright.inference.segmenter import Segmenter
from segwright.runtimes import conversion
from segwright.runtimes.conversion import to_onnx, to_openvino
from segwright.types import Classes

pytestmark = [pytest.mark.usefixtures("unchecked_shapes"), pytest.mark.slow]

SIZES = [(1, 5, 7), (2, 16, 24), (1, 1, 1), (2, 33, 50)]
"""Batch, height and width of images."""


class TinyNetwork(nn.Module):
    """Down to an eighth and back."""

    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 5, 8, stride=8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(image))


class BesselNetwork(TinyNetwork):
    """With an operation that no engine has."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(super().forward(image))


def segmenter_of(network: nn.Module, dtype: str = "uint8") -> Segmenter:
    description = Description(
        network="tiny",
        arguments={},
        classes=Classes(tuple("abcde"), ((0, 0, 0),) * 5),
        encoding=MaskEncoding("index", (0, 1, 2, 3, 4)),
        in_channels=3,
        dtype=dtype,
        mean=(100.0, 90.0, 80.0),
        std=(50.0, 60.0, 70.0),
    )
    return Segmenter(network, description).eval()


@pytest.fixture(scope="module", params=["uint8", "uint16", "float32"])
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    torch.manual_seed(0)
    return segmenter_of(TinyNetwork(), request.param)


@pytest.fixture(scope="module")
def openvino_model(segmenter: Segmenter) -> openvino.Model:
    return to_openvino(segmenter)


@pytest.fixture(scope="module")
def onnx_model(segmenter: Segmenter) -> onnx.ModelProto:
    return to_onnx(segmenter)


def images_of(segmenter: Segmenter, *shape: int) -> np.ndarray:
    dtype = "uint8" if segmenter.description.dtype == "uint8" else "float32"
    return np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(dtype)


def expect(segmenter: Segmenter, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        mask, logits = MaskGraph(segmenter)(torch.from_numpy(images))
    return mask.numpy(), logits.numpy()


def test_openvino_gives_the_logits_and_masks_of_pytorch(segmenter: Segmenter, openvino_model: openvino.Model) -> None:
    compiled = openvino.compile_model(openvino_model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in SIZES:
        images = images_of(segmenter, *shape)
        mask, logits = expect(segmenter, images)
        found = compiled({"image": images})
        np.testing.assert_allclose(found["logits"], logits, atol=1e-5)
        np.testing.assert_array_equal(found["mask"], mask)


def test_onnx_gives_the_logits_and_masks_of_pytorch(segmenter: Segmenter, onnx_model: onnx.ModelProto) -> None:
    session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
    for shape in SIZES:
        images = images_of(segmenter, *shape)
        mask, logits = session.run(["mask", "logits"], {"image": images})
        expected_mask, expected_logits = expect(segmenter, images)
        np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
        np.testing.assert_array_equal(mask, expected_mask)


def test_openvino_declares_names_types_and_free_sizes(segmenter: Segmenter, openvino_model: openvino.Model) -> None:
    pixels = "u8" if segmenter.description.dtype == "uint8" else "f32"
    assert [
        (port.get_names(), port.get_element_type().to_string(), str(port.get_partial_shape()))
        for port in (*openvino_model.inputs, *openvino_model.outputs)
    ] == [
        ({"image"}, pixels, "[?,?,?,3]"),
        ({"mask"}, "u8", "[?,?,?]"),
        ({"logits"}, "f32", "[?,?,?,?]"),  # OpenVINO has lost that there are 5
    ]


def test_onnx_declares_names_types_and_free_sizes(segmenter: Segmenter, onnx_model: onnx.ModelProto) -> None:
    pixels = onnx.TensorProto.UINT8 if segmenter.description.dtype == "uint8" else onnx.TensorProto.FLOAT
    declared = [
        (value.name, tensor.elem_type, [axis.dim_param or axis.dim_value for axis in tensor.shape.dim])
        for value in (*onnx_model.graph.input, *onnx_model.graph.output)
        for tensor in [value.type.tensor_type]
    ]
    assert declared == [
        ("image", pixels, ["batch", "height", "width", 3]),
        ("mask", onnx.TensorProto.UINT8, ["batch", "height", "width"]),
        ("logits", onnx.TensorProto.FLOAT, ["batch", 5, "height", "width"]),
    ]
    onnx.checker.check_model(onnx_model, full_check=True)


def test_onnx_holds_the_weights_once_and_no_path_of_this_machine(
    segmenter: Segmenter, onnx_model: onnx.ModelProto
) -> None:
    weights = sum(value.numel() * value.element_size() for value in segmenter.state_dict().values())
    content = onnx_model.SerializeToString()
    assert len(content) < weights + 5000
    assert b".py" not in content


def test_openvino_holds_the_weights_once_and_keeps_them_when_the_segmenter_is_gone() -> None:
    torch.manual_seed(0)
    segmenter = segmenter_of(TinyNetwork())
    images = images_of(segmenter, 1, 16, 16)
    _, logits = expect(segmenter, images)
    weights = sum(value.numel() * value.element_size() for value in segmenter.state_dict().values())
    model = to_openvino(segmenter)
    del segmenter
    gc.collect()
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    assert sum(node.get_byte_size() for node in constants) < weights + 2000
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled({"image": images})["logits"], logits, atol=1e-5)


@pytest.mark.parametrize("convert", [to_openvino, to_onnx])
def test_a_conversion_says_nothing(
    convert, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    traced = conversion.trace

    def chatter(segmenter: Segmenter) -> object:
        warnings.warn("this will change", FutureWarning, stacklevel=1)
        logging.getLogger("torch.onnx").warning("an operation has no annotation")
        return traced(segmenter)

    monkeypatch.setattr(conversion, "trace", chatter)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        convert(segmenter_of(TinyNetwork()))
    assert not raised
    assert capfd.readouterr() == ("", "")
    logging.getLogger("torch.onnx").warning("heard again")
    assert [record.message for record in caplog.records if record.levelno > logging.INFO] == ["heard again"]


@pytest.mark.parametrize(
    ("convert", "missing", "sentence"),
    [
        (to_openvino, {"openvino"}, r'OpenVINO needs openvino, .* run pip install "segwright\[fast\]"'),
        (to_onnx, {"onnx"}, r'ONNX needs onnx, .* run pip install "segwright\[export\]"'),
        (to_onnx, {"onnx", "onnxscript"}, "ONNX needs onnx and onnxscript, which this machine does not have"),
    ],
)
def test_a_missing_package_is_named(convert, missing: set[str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "find_spec", lambda package: None if package in missing else object())
    with pytest.raises(ValueError, match=sentence):
        convert(segmenter_of(TinyNetwork()))


@pytest.mark.parametrize(("convert", "form"), [(to_openvino, "OpenVINO"), (to_onnx, "ONNX")])
def test_an_operation_that_cannot_be_converted_is_named(convert, form: str) -> None:
    with pytest.raises(ValueError, match=rf"tiny cannot be converted for {form} .*bessel_j0.*; use --runtime torch"):
        convert(segmenter_of(BesselNetwork()))
