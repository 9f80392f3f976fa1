"""Tests of the recipe for Ray, which need no Ray: its processes are objects here."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from segwright.inference.segmenter import Segmenter
from segwright.prediction import load, predict_files

RECIPE = Path(__file__).parents[1] / "recipes" / "predict_with_ray.py"


load_torch = partial(load, runtime="torch")  # another library would first have to take the network over


class LostError(Exception):
    """Stands for the end of a process."""


class FailedError(Exception):
    """Stands for an error within a process."""


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The recipe with a Ray that computes at once."""
    ray = ModuleType("ray")
    ray.wait = lambda results: (results[:1], results[1:])  # type: ignore[attr-defined]
    ray.get = lambda result: result()  # type: ignore[attr-defined]
    ray.exceptions = SimpleNamespace(RayError=(LostError, FailedError), RayActorError=LostError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    spec = importlib.util.spec_from_file_location("predict_with_ray", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.load = load_torch  # type: ignore[attr-defined]
    return module


class Process:
    """Takes images until it is lost, as a handle of Ray does."""

    def __init__(self, segment: Callable[[str], str | None]) -> None:
        self.segment = SimpleNamespace(remote=lambda name: lambda: self.answer(segment, name))
        self.is_lost = False

    def answer(self, segment: Callable[[str], str | None], name: str) -> str | None:
        assert not self.is_lost, "an image came to a process that was lost"
        try:
            return segment(name)
        except LostError:
            self.is_lost = True
            raise


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (30, 40, 3)).astype(np.uint8))
    return path


def test_without_ray_it_says_what_to_install() -> None:
    program = f"import sys, runpy; sys.modules['ray'] = None; runpy.run_path({str(RECIPE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "Error: this recipe needs Ray on each machine; pip install ray\n"


def test_masks_are_those_of_predict(recipe: Any, tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path / "run")
    images = [write_image(tmp_path / "in" / name, seed) for seed, name in enumerate(("a.png", "b/c.v2.png"))]
    process = recipe.SegmentingProcess(str(tmp_path / "run"), str(tmp_path / "in"), str(tmp_path / "out"))
    assert [process.segment(name) for name in ("a.png", "b/c.v2.png")] == [None, None]
    for mask in predict_files(load_torch(tmp_path / "run"), images, tmp_path / "expected").done:
        written = tmp_path / "out" / mask.relative_to(tmp_path / "expected")
        assert written.read_bytes() == mask.read_bytes()
    assert len([file for file in (tmp_path / "out").rglob("*") if file.is_file()]) == 2


def test_a_truncated_image_is_a_reason_and_leaves_nothing(
    recipe: Any, tiny_segmenter: Segmenter, tmp_path: Path
) -> None:
    tiny_segmenter.save(tmp_path / "run")
    image = write_image(tmp_path / "in" / "a.png")
    image.write_bytes(image.read_bytes()[:500])
    process = recipe.SegmentingProcess(str(tmp_path / "run"), str(tmp_path / "in"), str(tmp_path / "out"))
    assert process.segment("a.png").startswith("the PNG file is cut short")
    assert not (tmp_path / "out").exists()


def test_images_whose_masks_are_there_are_left_out(recipe: Any, tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c/a.png", "c/d.tif", "e.png.tif"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    for name in ("a.png", "c/d.tif", "e.png.part"):
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).touch()
    assert recipe.find_images(str(tmp_path / "in"), str(tmp_path / "out")) == (["b.jpg", "c/a.png", "e.png.tif"], 5)


def test_masks_of_one_name_are_refused(recipe: Any, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / "in" / name)
    with pytest.raises(ValueError, match="2 images are called a, and their masks would be too"):
        recipe.find_images(str(tmp_path / "in"), str(tmp_path / "out"))


def test_masks_among_the_images_are_refused(recipe: Any, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png")
    with pytest.raises(ValueError, match="masks would be taken for images"):
        recipe.find_images(str(tmp_path / "in"), str(tmp_path / "in" / "masks"))


def test_an_image_whose_process_is_lost_goes_to_a_new_one(recipe: Any) -> None:
    tried: list[str] = []

    def segment(name: str) -> str | None:
        tried.append(name)
        if tried.count("b") == 1 and name == "b":
            raise LostError("gone")
        return None

    processes = [Process(segment), Process(segment)]
    assert recipe.segment_all(["a", "b", "c", "d"], processes, lambda: Process(segment)) == {}
    assert sorted(tried) == ["a", "b", "b", "c", "d"]


@pytest.mark.parametrize("error", [LostError, FailedError])
def test_an_image_that_fails_again_and_again_is_named(recipe: Any, error: type[Exception]) -> None:
    tried: list[str] = []

    def segment(name: str) -> str | None:
        tried.append(name)
        if name == "b":
            raise error("Traceback\nOSError: no answer\n")
        return "damaged" if name == "c" else None

    failed = recipe.segment_all(["a", "b", "c"], [Process(segment)], lambda: Process(segment))
    assert failed == {
        "b": "3 attempts failed (OSError: no answer); look at the machines and the bucket",
        "c": "damaged",
    }
    assert sorted(tried) == ["a", "b", "b", "b", "c"]
