"""Tests of a segmenter on every engine: the same masks, kept beside it, and what a user hears when it cannot be."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import make_tiny_segmenter
from torch import nn

import segwright
from segwright.inference.description import DESCRIPTION, WEIGHTS
from segwright.inference.engine import Engine, Scores
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter
from segwright.runtimes import choice
from segwright.runtimes.choice import open_engine
from segwright.runtimes.folder import RECORD, read_record, segmenter_key
from segwright.runtimes.kept import check_on_noise, keep
from segwright.runtimes.torch import TorchEngine

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

SIZES = [(64, 96), (5, 7), (67, 45), (33, 130)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter whose engines are made once for all tests."""
    place = tmp_path_factory.mktemp("engines") / "segmenter"
    make_tiny_segmenter().save(place)
    return place


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def logits_of(engine: Engine, images: np.ndarray) -> np.ndarray:
    logits = engine(images, with_logits=True).logits
    assert logits is not None
    return logits


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_an_engine_gives_the_masks_of_pytorch_at_any_size(folder: Path, runtime: choice.Wanted) -> None:
    expected = open_engine(folder, runtime="torch", precision="fp32")
    engine = open_engine(folder, runtime=runtime, precision="fp32")
    assert (engine.stride, engine.margin) == (expected.stride, expected.margin)
    for size in SIZES:
        images = noise(2, *size, 3)
        np.testing.assert_allclose(logits_of(engine, images), logits_of(expected, images), atol=1e-3)
        mask = engine(images, with_logits=False)
        assert mask.logits is None
        assert (mask.mask == expected(images, with_logits=False).mask).mean() > 0.999


@pytest.mark.slow
def test_a_size_that_comes_often_gives_the_same_masks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(folder, runtime="openvino", precision="fp32")
    compiled: list[object] = []
    original = type(engine)._compile

    def compile_(self: Engine, with_logits: bool, shape: tuple[int, ...] | None = None) -> object:
        compiled.append(shape)
        return original(self, with_logits, shape)  # type: ignore[arg-type]

    monkeypatch.setattr(type(engine), "_compile", compile_)
    images, others = noise(1, 67, 45, 3), noise(1, 40, 40, 3)
    first, other = logits_of(engine, images), logits_of(engine, others)
    for _ in range(10):
        np.testing.assert_allclose(logits_of(engine, images), first, atol=1e-4)
    assert compiled == [None, images.shape]
    np.testing.assert_array_equal(logits_of(engine, others), other)
    np.testing.assert_allclose(logits_of(engine, images), first, atol=1e-4)
    assert len(compiled) == 2


@pytest.mark.slow
def test_a_segmenter_on_openvino_needs_no_pytorch(folder: Path) -> None:
    open_engine(folder, runtime="openvino")
    code = (
        "import sys, numpy, segwright\n"
        f"segmenter = segwright.load({str(folder)!r}, runtime='openvino')\n"
        "mask = segmenter.predict(numpy.zeros((37, 53, 3), numpy.uint8)).mask\n"
        "assert mask.shape == (37, 53)\n"
        "sys.exit('torch' in sys.modules or not segmenter.runtime.startswith('OpenVINO'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_engine_is_made_once_and_again_for_other_weights(tmp_path: Path) -> None:
    segmenter = make_tiny_segmenter()
    segmenter.save(tmp_path)
    open_engine(tmp_path, runtime="openvino")
    (made,) = (tmp_path / "engines").glob("openvino-*")
    stamp = (made / "model.xml").stat().st_mtime_ns
    open_engine(tmp_path, runtime="openvino")
    assert (made / "model.xml").stat().st_mtime_ns == stamp
    with torch.no_grad():
        next(segmenter.network.parameters()).mul_(2)
    segmenter.save(tmp_path)
    images = noise(1, 64, 64, 3)
    other = logits_of(open_engine(tmp_path, runtime="openvino", precision="fp32"), images)
    np.testing.assert_allclose(other, logits_of(TorchEngine(segmenter, precision="fp32"), images), atol=1e-3)
    assert not made.exists()
    assert len(list((tmp_path / "engines").iterdir())) == 1


def test_the_key_follows_what_is_computed_and_nothing_else(tmp_path: Path) -> None:
    segmenter = make_tiny_segmenter()
    segmenter.save(tmp_path)
    before = segmenter_key(tmp_path)
    segmenter.description = replace(segmenter.description, scores={"miou": 0.5}, recipe={"a": 1})
    segmenter.save(tmp_path)
    assert segmenter_key(tmp_path) == before
    segmenter.description = replace(segmenter.description, mean=(1.0, 2.0, 3.0))
    segmenter.save(tmp_path)
    assert segmenter_key(tmp_path) != before


class Wrong:
    """An engine whose logits are a little off."""

    runtime = "a wrong engine"

    def __init__(self, engine: TorchEngine, error: float) -> None:
        self.engine, self.error = engine, error
        self.description = engine.description
        self.stride, self.margin, self.batch_size = engine.stride, 0, 1

    def __call__(self, images: np.ndarray, /, *, with_logits: bool) -> Scores:
        scores = self.engine(images, with_logits=True)
        assert scores.logits is not None
        return Scores(scores.mask, scores.logits * np.float32(1 + self.error))


def test_an_engine_with_other_logits_is_refused(tiny_segmenter: Segmenter) -> None:
    engine = TorchEngine(tiny_segmenter, precision="fp32")
    check_on_noise(tiny_segmenter, Wrong(engine, 0.001))
    with pytest.raises(ValueError, match=r"other logits than PyTorch for ddrnet \(by 5.0% .*--runtime torch"):
        check_on_noise(tiny_segmenter, Wrong(engine, 0.05))


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_segmenter().save(tmp_path)

    def convert(*_: object, **__: object) -> None:
        raise ValueError("no rule for this operation")

    monkeypatch.setattr("segwright.runtimes.kept.convert", convert)
    with pytest.raises(ValueError, match="no rule"):
        keep(tmp_path, "openvino", lambda *_: None)  # type: ignore[arg-type,return-value]
    assert not list((tmp_path / "engines").iterdir())
    engine = open_engine(tmp_path)
    assert engine.runtime.startswith("PyTorch")
    assert "openvino cannot take this network" in engine.runtime
    (refused,) = (tmp_path / "engines").iterdir()
    assert "no rule for this operation" in refused.read_text()
    monkeypatch.setattr("segwright.runtimes.choice._open_kept", None)
    assert open_engine(tmp_path).runtime == engine.runtime  # not tried again


@pytest.mark.skipif(os.name != "posix", reason="no such permissions")
@pytest.mark.slow
def test_engines_of_a_folder_that_cannot_be_written_are_kept_with_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_segmenter().save(tmp_path / "segmenter")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("segwright.runtimes.kept.os.access", lambda *_: False)
    open_engine(tmp_path / "segmenter", runtime="openvino")
    assert not (tmp_path / "segmenter" / "engines").exists()
    assert len(list((tmp_path / "cache").glob("segwright/kept-engines/openvino-*"))) == 1


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "tensorrt"])
def test_a_library_that_is_absent_is_one_sentence(
    tmp_path: Path, runtime: choice.Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_segmenter().save(tmp_path)
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=f"{runtime} is not installed, but this needs it; .*pip install"):
        open_engine(tmp_path, runtime=runtime)


def test_pytorch_is_taken_where_nothing_else_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_segmenter().save(tmp_path)
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    assert open_engine(tmp_path, precision="fp32").runtime == "PyTorch, fp32"


def test_a_gpu_that_is_absent_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_segmenter().save(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        open_engine(tmp_path, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda place: (place / RECORD).write_text("{"), "damaged"),
        (lambda place: (place / RECORD).write_text('{"format": 9}'), "another version"),
        (lambda place: (place / "model.xml").unlink(), "lacks model.xml"),
        (lambda place: (place / "model.xml").write_text("<net"), "cannot be read"),
    ],
)
def test_a_damaged_engine_is_one_sentence(folder: Path, tmp_path: Path, damage: object, sentence: str) -> None:
    open_engine(folder, runtime="openvino")
    (made,) = (folder / "engines").glob("openvino-*")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in made.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    read_record(copy)
    damage(copy)  # type: ignore[operator]
    with pytest.raises(ValueError, match=sentence) as caught:
        predict_image(open_engine(copy), noise(64, 64, 3))
    assert "\n" not in str(caught.value)


def test_a_compiled_network_gives_the_same_masks(tiny_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[nn.Module] = []

    def compile_(module: nn.Module, **options: object) -> nn.Module:
        assert options == {"dynamic": False, "options": {"freezing": True}}
        calls.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compile_)  # a real one takes a minute; the benchmark runs it
    compiled = TorchEngine(tiny_segmenter, precision="fp32", is_compiled=True)
    assert compiled.runtime == "PyTorch compiled, fp32"
    assert len(calls) == 1
    images = noise(1, 40, 50, 3)
    np.testing.assert_array_equal(
        logits_of(compiled, images), logits_of(TorchEngine(tiny_segmenter, precision="fp32"), images)
    )


def test_sixteen_bit_images_are_taken(tmp_path: Path) -> None:
    segmenter = make_tiny_segmenter()
    segmenter.description = replace(segmenter.description, dtype="uint16")
    segmenter.save(tmp_path)
    image = noise(40, 50, 3).astype(np.uint16)
    mask = segwright.load(tmp_path, runtime="torch").predict(image).mask
    segmenter.description = replace(segmenter.description, dtype="uint8")
    expected = predict_image(TorchEngine(segmenter), image.astype(np.uint8)).mask
    np.testing.assert_array_equal(mask, expected)


def test_the_folder_of_a_run_has_the_key_of_its_segmenter(tmp_path: Path) -> None:
    make_tiny_segmenter().save(tmp_path / "segmenter")
    loaded = segwright.load(tmp_path, runtime="torch")
    assert loaded.key == segmenter_key(tmp_path / "segmenter")
    assert json.loads((tmp_path / "segmenter" / DESCRIPTION).read_text())["network"] == "ddrnet"
    assert (tmp_path / "segmenter" / WEIGHTS).is_file()
