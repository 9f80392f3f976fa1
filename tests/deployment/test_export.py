"""Tests of exports: what they hold, that they are proved, and that nothing is left of one that is not."""

import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from samples import make_tiny_segmenter

import segwright
from segwright.compression.quantize import Quantizer
from segwright.data.folder import find_pairs
from segwright.data.keeping import keep_pairs
from segwright.deployment import export as module
from segwright.deployment.export import PRECISIONS, ExportRefusedError, export
from segwright.deployment.proof import Proof, compare
from segwright.deployment.samples import calibration_samples, check_samples, proof_samples
from segwright.inference.description import read_description
from segwright.runtimes.folder import read_record

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


@pytest.fixture
def folder(tmp_path: Path, rectangles: Path) -> Path:
    segmenter = make_tiny_segmenter()
    segmenter.description = replace(segmenter.description, recipe={"data": str(rectangles)})
    segmenter.save(tmp_path / "segmenter")
    return tmp_path / "segmenter"


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "precision"), [("onnx", "fp32"), ("openvino", "bf16"), ("torch", "fp32"), ("triton", "fp32")]
)
def test_an_export_is_used_like_a_segmenter_and_gives_its_masks(
    folder: Path, tmp_path: Path, to: module.Target, precision: module.Precision
) -> None:
    out = tmp_path / "out" / "export"
    exported = export(folder, out, to=to, precision=precision, images=2)
    assert exported.proof.equal >= exported.proof.least_equal
    assert exported.proof.images == 2
    record, description = read_record(out)
    assert record.proof["holds"]
    assert record.versions["segwright"] == segwright.__version__
    assert record.precision == precision
    loaded, expected = segwright.load(out), segwright.load(folder, runtime="torch", precision="fp32")
    assert loaded.key == expected.key
    assert description.classes == expected.classes
    equal = loaded.predict(image()).mask == expected.predict(image()).mask
    assert equal.mean() >= exported.proof.least_equal
    assert [path.name for path in out.parent.iterdir()] == ["export"]
    if to == "triton":
        assert exported.file == out / "segmenter" / "1" / "model.onnx"
        text = (out / "segmenter" / "config.pbtxt").read_text()
        assert 'name: "image", data_type: TYPE_UINT8, dims: [ -1, -1, 3 ]' in text
        assert 'name: "logits", data_type: TYPE_FP32, dims: [ 2, -1, -1 ]' in text
        names = [value.name for value in onnx.load(exported.file).graph.output]
        assert names == ["mask", "logits"]


def lying(proof: Proof) -> Proof:
    return replace(proof, equal=0.9)


@pytest.mark.slow
def test_an_export_whose_masks_differ_leaves_nothing_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "compare", lambda *arguments: lying(compare(*arguments)))
    with pytest.raises(
        ExportRefusedError, match=r"the same class on 90.000 % of the pixels .* nothing was exported"
    ) as caught:
        export(folder, tmp_path / "out" / "export", to="torch", images=1)
    assert not list((tmp_path / "out").iterdir())
    assert not caught.value.proof.holds


@pytest.mark.slow
def test_an_int8_network_that_changes_too_much_is_tried_with_more_in_floating_point(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies, said, asked = iter([lying, lying, lambda proof: proof]), list[str](), list[float]()
    quantize = Quantizer.quantize
    monkeypatch.setattr(module, "compare", lambda *arguments: next(lies)(compare(*arguments)))
    monkeypatch.setattr(
        Quantizer, "quantize", lambda self, tolerance: asked.append(tolerance) or quantize(self, tolerance)
    )
    exported = export(folder, tmp_path / "out", to="triton", precision="int8", images=2, progress=said.append)
    assert asked == pytest.approx([0.995, 0.9975, 0.99875])
    assert said.count("Predicting 2 images in the export") == 3
    assert exported.proof.equal >= 0.995
    assert any(layer["is_int8"] for layer in exported.layers)
    assert segwright.load(tmp_path / "out").predict(image()).mask.shape == (50, 70)


@pytest.mark.parametrize(
    ("to", "precision", "sentence"),
    [
        ("onnx", "bf16", "precision is bf16, but --to onnx has fp32, int8"),
        ("tensorrt", "fp32", "tensorrt is not installed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_computed(
    folder: Path, tmp_path: Path, to: module.Target, precision: module.Precision, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        export(folder, tmp_path / "out", to=to, precision=precision)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        export(folder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_without_images_nothing_can_be_proved(tmp_path: Path) -> None:
    segmenter = make_tiny_segmenter()
    segmenter.save(tmp_path / "segmenter")
    with pytest.raises(ValueError, match="give a folder of images with --data"):
        export(tmp_path / "segmenter", tmp_path / "out")


def test_a_run_whose_data_is_gone_is_proved_on_the_images_that_it_kept(
    folder: Path, rectangles: Path, tmp_path: Path
) -> None:
    description = read_description(folder)
    assert [sample.name for sample in proof_samples(description, folder, None, 2)] == ["06", "07"]
    keep_pairs(find_pairs(rectangles).splits["val"], tmp_path / "samples", most=2)
    rectangles.rename(tmp_path / "elsewhere")
    kept = proof_samples(description, folder, None, 9)
    assert kept
    assert all(sample.mask is not None for sample in kept)


def test_images_without_masks_can_prove_the_pixels(folder: Path, rectangles: Path) -> None:
    description = read_description(folder)
    samples = proof_samples(description, folder, rectangles / "images" / "val", 2)
    assert [sample.mask for sample in samples] == [None, None]


def test_calibration_takes_training_images(folder: Path) -> None:
    samples = calibration_samples(read_description(folder), folder, None, 3)
    assert [sample.name for sample in samples] == ["00", "02", "04"]


def test_the_check_takes_what_the_proof_does_not(folder: Path) -> None:
    description = read_description(folder)
    names = [
        [sample.name for sample in check_samples(description, folder, None, most, in_proof=in_proof)]
        for most, in_proof in ((16, 2), (1, 1), (16, 3), (16, 32))
    ]
    assert names == [["08"], ["07"], [], []]


def test_every_target_names_its_formats() -> None:
    assert all("fp32" in formats for formats in PRECISIONS.values())


def test_tensorrt_is_asked_for_sizes_up_to_the_largest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The calls of a build, with a stand-in for the library, which needs a GPU."""
    calls: list[tuple[str, object]] = []

    class Anything:
        def __init__(self, *arguments: object) -> None: ...
        def __getattr__(self, name: str) -> object:
            def call(*arguments: object) -> object:
                calls.append((name, arguments))
                return {"parse": True, "build_serialized_network": b"plan"}.get(name, Anything())

            return call

    library = types.ModuleType("tensorrt")
    for name in ("Builder", "OnnxParser"):
        setattr(library, name, Anything)
    library.Logger = type("Logger", (Anything,), {"ERROR": 1})  # type: ignore[attr-defined]
    library.MemoryPoolType = types.SimpleNamespace(WORKSPACE=1)  # type: ignore[attr-defined]
    library.BuilderFlag = types.SimpleNamespace(FP16="fp16", BF16="bf16")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    from segwright.inference.description import Tiling
    from segwright.runtimes.tensorrt import build_plan

    (tmp_path / "model.onnx").write_bytes(b"")
    assert build_plan(tmp_path / "model.onnx", Tiling(), 3, "fp16") == b"plan"
    shapes = next(arguments for name, arguments in calls if name == "set_shape")
    assert shapes == ("image", (1, 1, 1, 3), (1, 1024, 1024, 3), (4, 1448, 1448, 3))
    assert ("set_flag", ("fp16",)) in calls
