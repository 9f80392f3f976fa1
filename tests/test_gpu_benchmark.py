"""The script for lent GPUs runs on a processor too, so that no minute of a lent machine is spent on its mistakes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from segwright.data.inspection import inspect

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FOLDER / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delitem(sys.modules, "results", raising=False)
    return module


def test_a_packed_data_set_reads_as_the_original(gpu: ModuleType, rectangles: Path, tmp_path: Path) -> None:
    gpu.pack(rectangles, tmp_path / "packed")
    before, after = inspect(rectangles), inspect(tmp_path / "packed")
    assert not after.problems
    assert {name: len(pairs) for name, pairs in after.dataset.splits.items()} == {"train": 6, "val": 3}
    assert after.statistics.class_shares == before.statistics.class_shares
    assert all(pair.image.suffix == ".jpg" for pair in after.dataset.splits["train"])


@pytest.mark.slow
def test_both_ways_of_a_step_are_timed(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # Compiling takes minutes on a processor; `speed --turns 1 --crop 64 64` does it by hand.
    monkeypatch.setattr(gpu.torch, "compile", lambda network: network)
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "WARM_UP", 1)
    row = gpu.measure_speed("ddrnet", 2, (64, 64), turns=1)
    assert row["fp32_images_per_s"] > 0
    assert row["fast_images_per_s"] > 0


@pytest.mark.slow
def test_a_run_in_two_sittings_ends_with_a_row(gpu: ModuleType, rectangles: Path, tmp_path: Path) -> None:
    settings = ["network=ddrnet", "network.width=4", "train.batch_size=2", "transform.crop=[64,64]"]
    run = tmp_path / "run"
    rows = [gpu.train(rectangles, 0.75, 0.4, run, settings)]
    while rows[-1] is None:
        assert len(rows) < 5
        rows.append(gpu.train(rectangles, 0.75, 0.4, run, settings))
    assert len(rows) > 1
    assert 0 <= rows[-1]["val_miou"] <= 100
    assert rows[-1]["minutes"] == 0.75
