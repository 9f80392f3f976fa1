"""Tests of the table of engines."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from samples import make_tiny_segmenter

from segwright.deployment import bench as module
from segwright.deployment.bench import bench
from segwright.report.deployment import render_bench


@pytest.mark.slow
def test_each_engine_has_a_row_and_one_that_fails_says_why(
    tmp_path: Path, rectangles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = make_tiny_segmenter()
    segmenter.description = replace(segmenter.description, recipe={"data": str(rectangles)})
    segmenter.save(tmp_path)
    entries = [module._Entry(tmp_path, "torch", "fp32"), module._Entry(tmp_path, "tensorrt", "auto")]
    monkeypatch.setattr(module, "_installed", lambda *_, **__: entries)  # a few, as each takes a process of seconds
    first, failed = bench(tmp_path, images=2)
    assert first.name == "PyTorch, fp32"
    assert first.proof is not None
    assert first.proof.equal == 1
    assert first.proof.delta_miou == 0
    assert 50 < first.memory_mb < 8000
    assert "tensorrt is not installed" in failed.problem
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_bench([first, failed]))
    shown = console.export_text()
    assert "PyTorch, fp32" in shown
    assert "100.000 %" in shown
    assert "pip install" in shown


def test_the_reference_comes_first(tmp_path: Path) -> None:
    first, *others = module._installed(tmp_path, compiled=True)
    assert (first.runtime, first.precision) == ("torch", "fp32")
    assert {entry.runtime for entry in others} >= {"compile", "openvino", "onnxruntime"}
