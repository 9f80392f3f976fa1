"""Tests of quantization: what is in int8, what is put back, what it is called, and that engines run it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from samples import make_tiny_segmenter
from torch import Tensor, nn

from segwright.compression import quantize as module
from segwright.compression.calibration import calibrate
from segwright.compression.layers import Graph, GraphLayer, name_layers
from segwright.compression.quantize import LayerReport, Quantizer, Target, _open_graph
from segwright.inference.engine import Engine
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.folder import EngineRecord
from segwright.runtimes.torch import TorchEngine
from segwright.types import Classes

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
openvino = pytest.importorskip("openvino")
for library in ("nncf", "onnxscript"):
    pytest.importorskip(library)

TARGETS: list[Target] = ["openvino", "onnxruntime"]
QUANTIZED = {
    "openvino": [
        *(("first.0", "Convolution"), ("deep.1", "Convolution"), ("deep.1", "Interpolate"), ("wide.0", "Convolution")),
        *(("narrow", "Convolution"), ("narrow", "Add"), ("narrow", "AvgPool")),
    ],
    "onnxruntime": [
        *(("first.0", "Conv"), ("deep.1", "Conv"), ("deep.1", "Resize"), ("wide.0", "Conv")),
        *(("narrow", "Conv"), ("narrow", "Add"), ("narrow", "AveragePool")),
    ],
}
"""Layers of `Small` that can be in int8, in the order of the computation."""


class Small(nn.Module):
    """A network with all that is treated apart: a norm, a shortcut, two ways of resizing, a concatenation, a head.

    One channel that `wide` gives is far larger than the others, so that 8 bits are too few for all of them.
    """

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)
        )
        self.wide = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU())
        self.narrow = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.first(image)
        values = self.narrow(self.wide(torch.cat([shallow, self.deep(shallow)], 1))) + shallow
        small = self.head(nn.functional.avg_pool2d(values, 2))
        return nn.functional.interpolate(small, scale_factor=2, mode="bilinear")


def make_segmenter() -> Segmenter:
    torch.manual_seed(0)
    network = Small()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        network.first[1].running_var.uniform_(0.5, 2)
        network.wide[0].weight[0] = network.wide[0].weight[0].abs() * 300
        network.narrow.weight[:, 0] /= 300
    classes = Classes(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    return Segmenter(network, replace(make_tiny_segmenter().description, classes=classes)).eval()


def make_images(count: int, channels: int = 3) -> list[np.ndarray]:
    """Smooth noise of different sizes."""
    random = np.random.default_rng(0)
    sizes = [(40 + 3 * number, 57 - 2 * number) for number in range(count)]
    return [
        np.kron(random.integers(0, 256, (h // 4 + 1, w // 4 + 1, channels)), np.ones((4, 4, 1)))[:h, :w].astype(
            np.uint8
        )
        for h, w in sizes
    ]


def names_in(model: Any) -> list[str]:
    if isinstance(model, onnx.ModelProto):
        return [node.name for node in model.graph.node]
    return [node.get_friendly_name() for node in model.get_ordered_ops()]


def open_saved(done: Any, folder: Path) -> Engine:
    """The engine of a folder that holds what was quantized."""
    from segwright.runtimes.onnxruntime import ONNXRuntimeEngine
    from segwright.runtimes.openvino import OpenVINOEngine

    description = done.segmenter.description
    record = EngineRecord(done.target, "int8", "model.xml", done.segmenter.stride, 0, "key")
    if done.target == "openvino":
        openvino.save_model(done.quantized.model, folder / "model.xml", compress_to_fp16=False)
        return OpenVINOEngine(folder, record, description)
    onnx.save(done.quantized.model, folder / "model.xml")
    return ONNXRuntimeEngine(folder, record, description)


class Done:
    """What was quantized once for several tests, and what was said meanwhile."""

    def __init__(self, target: Target, segmenter: Segmenter, images: list[np.ndarray], tolerance: float) -> None:
        self.target, self.segmenter, self.said = target, segmenter, list[str]()
        self.graph: Graph

        def open_graph(segmenter: Segmenter, target: Target) -> Graph:
            self.graph = _open_graph(segmenter, target)
            return self.graph

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # for torch.export
            patch.setattr(module, "_open_graph", open_graph)
            self.quantizer = Quantizer(segmenter, images, target, progress=self.said.append)
            self.quantized = self.quantizer.quantize(tolerance)

    def layer(self, name: str) -> LayerReport:
        """The layer with weights that has a name."""
        weights = {node.node for node in self.graph.layers if node.weights is not None}
        pairs = zip(self.graph.layers, self.quantized.layers, strict=True)
        (found,) = (layer for node, layer in pairs if layer.name == name and node.node in weights)
        return found

    def node(self, name: str) -> str:
        pairs = zip(self.graph.layers, self.quantized.layers, strict=True)
        return next(node.node for node, layer in pairs if layer.name == name and node.follows == node.node)


@pytest.fixture(scope="module", params=TARGETS)
def done(request: pytest.FixtureRequest) -> Done:
    return Done(request.param, make_segmenter(), make_images(9), 0.97)


def logits_of(done: Done, model: Any, image: np.ndarray, switches: np.ndarray | None = None) -> np.ndarray:
    return done.graph.open(model)(image, switches)[1]


# What is in int8


@pytest.mark.slow
def test_all_but_both_ends_and_resizing_by_interpolation_is_quantized(done: Done) -> None:
    found = [(layer.name, layer.kind) for layer in done.quantized.layers if layer.harm]
    assert found == QUANTIZED[done.target]
    assert [layer for layer in done.quantized.layers if not layer.harm] == [
        LayerReport("head", QUANTIZED[done.target][0][1], is_int8=False, harm=None)
    ]


@pytest.mark.slow
def test_only_the_layer_that_eight_bits_are_too_few_for_is_put_back(done: Done) -> None:
    assert [layer.name for layer in done.quantized.layers if layer.harm and not layer.is_int8] == ["narrow"]
    harms = sorted((layer.harm, layer.name) for layer in done.quantized.layers if layer.harm)
    assert harms[-1][1] == "narrow"
    assert harms[-1][0] > 50 * harms[-2][0]
    assert done.quantized.equal > 0.97
    assert done.said[-2:] == [
        f"{share:.3%} of the pixels keep their class with {count} of 7 layers in int8"
        for share, count in ((float(done.said[-2].split("%")[0]) / 100, 7), (done.quantized.equal, 6))
    ]


@pytest.mark.slow
def test_all_layers_in_int8_are_what_nncf_made(done: Done) -> None:
    image = make_images(1)[0]
    expected = logits_of(done, done.graph.made, image)
    found = logits_of(done, done.graph.assemble(done.graph.quantized), image)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_without_layers_in_int8_the_logits_are_those_of_pytorch(done: Done) -> None:
    image = make_images(1)[0]
    expected = TorchEngine(done.segmenter, precision="fp32")(image[None], with_logits=True).logits
    found = logits_of(done, done.graph.assemble([]), image)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_a_layer_that_is_switched_on_alone_is_what_nncf_makes_if_it_quantizes_nothing_else(done: Done) -> None:
    graph, image, node = done.graph, make_images(1)[0], done.node("first.0")
    others = [other for other in names_in(graph.model) if other != node]
    expected = logits_of(done, calibrate(graph.model, make_images(9)[:6], others, len), image)
    order = [layer.node for layer in graph.layers if layer.node in graph.quantized]
    found = logits_of(done, graph.assemble_switched(order), image, np.array([one == node for one in order]))
    exact = logits_of(done, graph.model, image)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected - exact).max())


@pytest.mark.slow
def test_harm_is_the_relative_error_of_the_logits_with_one_layer_in_int8(done: Done) -> None:
    middles = [image[:256, :256] for image in make_images(2)]
    exact, alone = (
        np.concatenate([logits_of(done, model, image).ravel() for image in middles])
        for model in (done.graph.model, done.graph.assemble([done.node("narrow")]))
    )
    harm = np.linalg.norm(alone - exact) / np.linalg.norm(exact)
    assert done.layer("narrow").harm == pytest.approx(harm, rel=1e-3)


class Scaled(nn.Module):
    """A norm that no convolution can take in, because it comes after what is not linear."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, image: Tensor) -> Tensor:
        values = self.first(image).relu()
        return self.last(self.norm(values).relu() + values)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("target", "kinds"), [("openvino", {"Multiply"}), ("onnxruntime", {"BatchNormalization"})])
def test_a_norm_that_no_convolution_takes_in_stays_in_floating_point(target: Target, kinds: set[str]) -> None:
    segmenter = make_segmenter()
    graph = _open_graph(Segmenter(Scaled(), segmenter.description).eval(), target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(graph), "_scales", lambda self, node: False)
        without = graph._find_kept()  # type: ignore[attr-defined]
    nodes = graph._nodes  # type: ignore[attr-defined]
    added = [nodes[name] for name in set(graph.kept) - set(without)]
    assert {getattr(node, "op_type", None) or node.get_type_name() for node in added} == kinds


# What comes out


@pytest.mark.slow
def test_the_engine_runs_what_was_quantized_at_any_size(done: Done, tmp_path: Path) -> None:
    engine = open_saved(done, tmp_path)
    assert engine.runtime.endswith("int8")
    expected = TorchEngine(done.segmenter, precision="fp32")
    for size in ((1, 33, 46), (2, 7, 5), (1, 64, 96)):
        images = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        mask, logits = engine(images, with_logits=True)
        assert mask.shape == size
        assert logits is not None
        assert logits.shape == (size[0], 3, *size[1:])
        assert (mask == expected(images, with_logits=False).mask).mean() > 0.9
        np.testing.assert_array_equal(engine(images, with_logits=False).mask, mask)


@pytest.mark.slow
def test_the_share_of_equal_pixels_is_that_on_the_last_quarter(done: Done, tmp_path: Path) -> None:
    expected = TorchEngine(done.segmenter, precision="fp32")
    engine = open_saved(done, tmp_path)
    pairs = [[one(image[None], with_logits=False).mask for one in (expected, engine)] for image in make_images(9)[6:]]
    equal = np.concatenate([(a == b).ravel() for a, b in pairs]).mean()
    assert done.quantized.equal == pytest.approx(equal, abs=1e-3)


@pytest.mark.slow
def test_onnx_runtime_computes_all_layers_in_int8_that_the_report_says(tmp_path: Path) -> None:
    done = Done("onnxruntime", make_segmenter(), make_images(3), 0.1)
    onnx.save(done.quantized.model, tmp_path / "model.onnx")
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(tmp_path / "model.onnx", settings, ["CPUExecutionProvider"])
    fused = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    # All but the last layer, also the one after the concatenation, to which NNCF gives no quantizer of its own.
    assert fused.count("QLinearConv") == 4
    assert [text for text in done.said if text.startswith("calibrating")][-1] == "calibrating on image 3 of 3"


@pytest.mark.slow
def test_nothing_is_printed(done: Done, capfd: pytest.CaptureFixture[str]) -> None:
    graph = done.graph
    calibrate(graph.model, make_images(2), graph.kept, lambda text: print(text, file=sys.stderr))
    assert capfd.readouterr() == ("", "calibrating on image 1 of 2\ncalibrating on image 2 of 2\n")


# What layers are called


def test_layers_are_called_as_the_modules_that_their_weights_come_from() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {
            "plain": nn.Conv2d(4, 4, 3),
            "same": nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "up": nn.ConvTranspose2d(4, 6, 2),
            "linear": nn.Linear(5, 7),
        }
    )
    weights = {name: value.detach().numpy() for name, value in network.named_parameters()}
    scale = np.array([0.5, -2, 3, 0.1])[:, None, None, None]
    given = {
        "a": weights["same.1.weight"] * scale,  # with a norm
        "b": weights["depthwise.weight"][:, None],  # as OpenVINO has groups
        "c": weights["up.weight"] * np.arange(1, 7)[:, None, None],
        "d": weights["linear.weight"].T,
        "e/f": weights["plain.weight"][::-1],
    }
    layers = [GraphLayer(node, "Conv", value, node) for node, value in given.items()]
    layers.append(GraphLayer("g", "Add", None, "c"))
    layers.append(GraphLayer("h/i", "MatMul", None, None))
    assert name_layers(layers, network) == ["same.1", "depthwise", "up", "linear", "e", "up", "h"]


# What is refused


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.0, 1.01, float("nan")])
def test_a_tolerance_that_is_no_share_is_refused(done: Done, tolerance: float) -> None:
    with pytest.raises(ValueError, match=f"tolerance is {tolerance}, but a share of pixels above 0 and up to 1"):
        done.quantizer.quantize(tolerance)


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"an image has the shape \(40, 57, 4\), but \(height, width, 3\) is needed"):
        Quantizer(make_segmenter(), make_images(4, channels=4), "openvino")


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no images, but some are needed"):
        Quantizer(make_segmenter(), [], "openvino")


@pytest.mark.usefixtures("unchecked_shapes")
def test_another_target_is_refused() -> None:
    with pytest.raises(ValueError, match="the target is tensorrt, but only openvino and onnxruntime"):
        Quantizer(make_segmenter(), make_images(4), "tensorrt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("package", "target", "extra"),
    [
        ("nncf", "openvino", "fast"),
        ("nncf", "onnxruntime", "fast,export"),
        ("onnxscript", "onnxruntime", "fast,export"),
    ],
)
def test_a_missing_library_is_told_with_what_to_install(
    package: str, target: Target, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else name)
    with pytest.raises(
        ValueError, match=rf'needs {package}, but it is not installed; pip install "segwright\[{extra}\]"'
    ):
        Quantizer(make_segmenter(), make_images(4), target)
