"""What every network that takes images keeps to."""

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import skimage.data
import torch
from networks.small import SMALL
from torch import nn

import segwright.networks
from segwright.data.encoding import MaskEncoding
from segwright.inference.description import Description
from segwright.inference.graph import MaskGraph, trace
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.conversion import to_onnx, to_openvino
from segwright.types import Classes

CLASSES = 5
DESCRIPTION = Description(
    network="made",
    arguments={},
    classes=Classes(tuple("abcde"), ((0, 0, 0),) * CLASSES),
    encoding=MaskEncoding("index", tuple(range(CLASSES))),
    in_channels=3,
    dtype="uint8",
    mean=(127.5,) * 3,
    std=(73.6,) * 3,
)
PARTS = 4  # of the networks that one process compiles
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Softmax)
MODULES = {
    info.name: importlib.import_module(f"segwright.networks.{info.name}")
    for info in pkgutil.iter_modules(segwright.networks.__path__)
}
NAMES = sorted(name for name, module in MODULES.items() if module.build.takes == "image")


def make(name, in_channels=3):
    make_network = MODULES[name].build
    asked = inspect.signature(make_network).parameters
    arguments = {"encoder": "test_resnet", "weights": "none"}
    arguments = {key: value for key, value in arguments.items() if key in asked} | SMALL.get(name, {})
    torch.manual_seed(0)
    network = make_network(in_channels, CLASSES, **arguments)
    for module in network.modules():  # as after some training: no branch may hide behind a zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        if isinstance(module, nn.Conv2d) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.05)
        if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter) and not gamma.any():
            nn.init.constant_(gamma, 0.5)  # the weight of an attention that starts as the identity
    return network


def images(network, batch=2, cells=1, channels=3):
    torch.manual_seed(1)
    return torch.randn(batch, channels, network.stride * cells, network.stride * (cells + 1))


def photographs(batch, height, width):
    """Middles of photographs: a person before a space shuttle, and a cup of coffee on a table.

    With a sensor's noise, which these have lost: SegNet keeps the places of maxima, and where pixels are equal rounding
    would decide which of them that is.
    """
    random, middles = np.random.default_rng(0), []
    for photograph in (skimage.data.astronaut(), skimage.data.coffee())[:batch]:
        top, left = (photograph.shape[0] - height) // 2, (photograph.shape[1] - width) // 2
        middles.append(photograph[top : top + height, left : left + width])
    return (np.stack(middles) + random.normal(0, 3, (batch, height, width, 3))).clip(0, 255).astype(np.uint8)


def run_all(network, image):
    """All that training looks at: every output, and the terms that the network adds itself."""
    if hasattr(network, "forward_with_terms"):
        mask = torch.randint(0, CLASSES, (len(image), *image.shape[2:]), generator=torch.Generator().manual_seed(2))
        outputs, terms = network.forward_with_terms(image, mask, ignore_label=255)
        return [*outputs, *terms.values()]
    return network.forward_all(image) if hasattr(network, "forward_all") else [network(image)]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def network(name):
    return make(name)


def test_logits_have_the_size_of_the_image(network):
    image = images(network)
    for mode in (True, False):
        logits = network.train(mode)(image)
        assert logits.shape == (2, CLASSES, *image.shape[2:])
        assert logits.dtype == image.dtype


def test_one_cell_and_a_batch_of_one_are_enough_in_evaluation(network):
    image = torch.randn(1, 3, network.stride, network.stride)
    assert network.eval()(image).isfinite().all()


def test_odd_sizes_are_refused_with_the_size_to_use(network):
    stride = network.stride
    if stride == 1:
        pytest.skip("every size is legal")
    with pytest.raises(ValueError, match=f"image is {stride + 1} x {stride - 1}.* pad to {2 * stride} x {stride}"):
        network(torch.randn(1, 3, stride + 1, stride - 1))


def test_other_channels_are_taken(name):
    network = make(name, in_channels=4).eval()
    assert network(images(network, channels=4)).shape[1] == CLASSES


def test_all_outputs_start_with_the_main_one_at_the_size_of_the_image(network):
    image = images(network)
    network.eval()
    outputs = network.forward_all(image) if hasattr(network, "forward_all") else [network(image)]
    assert torch.equal(outputs[0], network(image))
    assert outputs[0].shape == (2, CLASSES, *image.shape[2:])
    # Auxiliary outputs keep the size of their stage; the method shrinks the mask to it.
    assert all(output.shape[:2] == (2, CLASSES) and output.shape[2] <= image.shape[2] for output in outputs[1:])


def test_gradient_reaches_every_parameter(network):
    # Two cells a side and four images: a batch norm over two values has almost no gradient.
    outputs = run_all(network.train(), images(network, batch=4, cells=2))
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    dead = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert not dead


@pytest.mark.parametrize("mode", [True, False])
def test_forward_computes_no_auxiliary_output(network, mode):
    network.train(mode)
    image = images(network)
    ran = [set(), set()]
    for names, function in zip(ran, (network, lambda x: run_all(network, x)), strict=True):
        hooks = [
            module.register_forward_hook(lambda *_, key=key, names=names: names.add(key))
            for key, module in network.named_modules()
            if key and isinstance(module, nn.Conv2d)
        ]
        function(image)
        for hook in hooks:
            hook.remove()
    has_auxiliary = len(run_all(network, image)) > 1
    assert (ran[0] < ran[1]) if has_auxiliary else (ran[0] == ran[1])


def test_no_activation_module_is_called_twice(network):
    calls = Counter()
    for key, module in network.named_modules():
        if isinstance(module, ACTIVATIONS):
            module.register_forward_hook(lambda *_, key=key: calls.update([key]))
    run_all(network, images(network))
    assert calls
    assert max(calls.values()) == 1


def test_channels_last_equals_contiguous(network):
    network.eval()
    image = images(network, cells=2)
    with torch.no_grad():
        expected = network(image)
        actual = network.to(memory_format=torch.channels_last)(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_weights_survive_saving(network, name):
    other = make(name)
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    other.load_state_dict(network.state_dict())
    image = images(network)
    assert torch.equal(other.eval()(image), network.eval()(image))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
def test_engines_give_the_same_masks_of_photographs_at_every_size(network):
    segmenter = Segmenter(network.eval(), DESCRIPTION)
    program = trace(segmenter)
    compiled = openvino.compile_model(to_openvino(segmenter, program), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    session = onnxruntime.InferenceSession(to_onnx(segmenter, program).SerializeToString())
    stride = network.stride
    # From small to large, because engines have kept what a tiny map made them take for a rule.
    for size in (
        (1, 5, 7),
        (2, stride + 3, 2 * stride + 1),
        (1, 3 * stride, 2 * stride),
        (1, 7 * stride + 1, 6 * stride),
    ):
        pixels = photographs(*size)
        with torch.no_grad():
            mask, logits = MaskGraph(segmenter)(torch.from_numpy(pixels))
        found = compiled({"image": pixels})
        for engine_mask, engine_logits in (
            (found["mask"], found["logits"]),
            session.run(["mask", "logits"], {"image": pixels}),
        ):
            np.testing.assert_allclose(engine_logits, logits, rtol=1e-3, atol=1e-3)
            # Two classes may tie to the last digits; one pixel in a thousand is far less than a wrong graph changes.
            assert (engine_mask == mask.numpy()).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_all_compile_into_one_graph(part):
    # In a process of its own, because the compiler cannot look through the shape checks of the tests.
    root = Path(segwright.networks.__file__).parents[2]
    command = [sys.executable, __file__, *NAMES[part::PARTS]]
    result = subprocess.run(
        command,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_head_of_the_file_says_what_the_code_says(name):
    module = MODULES[name]
    text = " ".join(module.__doc__.split())
    assert module.NAME
    assert module.PAPER.title in text
    assert module.PAPER.url in text
    assert "**Differs from the paper**" in text


@pytest.mark.parametrize(
    ("name", "variant", "in_channels", "num_classes"),
    [(name, *key) for name in NAMES for key in MODULES[name].PARAMETERS],
    ids=str,
)
def test_parameters_are_the_published_ones(name, variant, in_channels, num_classes):
    module = MODULES[name]
    arguments = dict(module.VARIANTS[variant])
    if "weights" in inspect.signature(module.build).parameters:
        arguments["weights"] = "none"
    with torch.device("meta"):
        network = module.build(in_channels, num_classes, **arguments)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == module.PARAMETERS[variant, in_channels, num_classes]


def test_every_network_has_a_published_count(name):
    assert MODULES[name].PARAMETERS


def compile_all(names):
    for name in names:
        network = make(name).eval()
        image = images(network)
        with torch.no_grad():
            compiled = torch.compile(network, fullgraph=True, backend="eager")
            torch.testing.assert_close(compiled(image), network(image))


if __name__ == "__main__":
    compile_all(sys.argv[1:] or NAMES)
