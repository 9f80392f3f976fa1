"""Tests of the real command line: the whole walk, and what a mistake gets."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from samples import TINY, write_pair

from segwright.inference.segmenter import Segmenter

SETTINGS = [
    *(f"network.{key}={value}" for key, value in TINY.items()), "train.batch_size=2", "transform.crop=[64,64]",
    "train.validations=1",
]  # fmt: skip


def segwright(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "segwright.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The command failed with one line on stderr that has these words, and without a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert all(word in lines[0] for word in words), lines[0]


@pytest.mark.slow
@pytest.mark.whole
def test_the_whole_walk(rectangles: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = segwright("train", rectangles, *SETTINGS, "--steps", 3, "--out", run)
    assert trained.returncode == 0, trained.stderr
    assert "val mIoU" in trained.stdout
    assert "<html" in (run / "report.html").read_text()
    evaluated = segwright("evaluate", run, rectangles, "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads(evaluated.stdout)
    kept = json.loads((run / "segmenter" / "segmenter.json").read_text())["scores"]
    assert scores["miou"] == kept["miou"]
    flipped = segwright("evaluate", run, rectangles, "--augment", "flip", "--json")
    assert "2 views" in json.loads(flipped.stdout)["protocol"], flipped.stderr
    predicted = segwright("predict", run, rectangles / "images" / "val", "--out", tmp_path / "out", "--augment", "flip")
    assert predicted.returncode == 0, predicted.stderr
    masks = sorted((tmp_path / "out").glob("*.png"))
    assert len(masks) == 3
    assert "Runtime    OpenVINO" in predicted.stdout
    assert cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED).shape == (64, 64)
    exported = segwright("export", run, "--to", "openvino", "--images", 2)
    assert exported.returncode == 0, exported.stderr
    assert "Equal pixels" in exported.stdout
    used = segwright("evaluate", run / "openvino-fp32", rectangles)
    assert "Computed by OpenVINO, fp32" in used.stdout, used.stderr
    (run / "report.html").unlink()
    assert segwright("report", run).returncode == 0
    assert (run / "report.html").is_file()


def test_help_is_quick_and_loads_no_torch() -> None:
    loaded = "import sys; from segwright import cli; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0
    shown = segwright("--help")
    assert shown.returncode == 0
    for verb in ("inspect", "train", "evaluate", "predict", "report"):
        assert verb in shown.stdout


def test_inspect_prints_json(rectangles: Path) -> None:
    done = segwright("inspect", rectangles, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statistics"]["num_pairs"] == {"train": 6, "val": 3}


def test_inspect_fails_on_errors(rectangles: Path) -> None:
    path = rectangles / "images" / "train" / "00.png"
    path.write_bytes(path.read_bytes()[:200])
    done = segwright("inspect", rectangles)
    assert done.returncode == 1
    assert "00.png" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optimizer.lrr=1"], ["optimizer.lrr", "did you mean 'lr'"]),
        (["network=unett"], ["unett", "did you mean 'unet'"]),
        (["--device", "cuda"], ["sees no GPU", "--device cpu"]),
        (["--steps", "3", "--minutes", "1"], ["train.steps", "train.minutes"]),
        (["--device", "tpu"], ["train.device", "'cpu'"]),
        (["train.batch_size=1"], ["train.batch_size is 1"]),
        (["transform.crop=[100,100]"], ["multiples of 32", "[96,96]"]),
    ],
)
def test_a_wrong_recipe_is_one_sentence(
    rectangles: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = segwright("train", rectangles, *arguments, "--out", tmp_path / "run", env=environment)
    assert_one_sentence(done, 2, *words)
    assert not (tmp_path / "run").exists()


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    assert_one_sentence(segwright("train", tmp_path / "nothing"), 2, "does not exist", "nothing")


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    assert_one_sentence(segwright("train", tmp_path, "--out", tmp_path / "run"), 2, "is empty")


def test_an_unreadable_image_is_one_sentence(rectangles: Path, tmp_path: Path) -> None:
    path = rectangles / "images" / "train" / "03.png"
    path.write_bytes(path.read_bytes()[:300])
    assert_one_sentence(segwright("train", rectangles, "--out", tmp_path / "run"), 2, "03.png")


def test_a_mask_of_another_size_is_one_sentence(rectangles: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(rectangles / "masks" / "train" / "02.png"), np.zeros((32, 64), np.uint8))
    assert_one_sentence(segwright("train", rectangles, "--out", tmp_path / "run"), 2, "02.png", "32 x 64", "64 x 64")


def test_another_number_of_classes_is_one_sentence(rectangles: Path, tmp_path: Path, tiny_segmenter: Segmenter) -> None:
    tiny_segmenter.save(tmp_path / "segmenter")
    cv2.imwrite(str(rectangles / "masks" / "val" / "06.png"), np.full((64, 64), 5, np.uint8))
    assert_one_sentence(segwright("evaluate", tmp_path / "segmenter", rectangles), 2, "06.png", "5")


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    assert_one_sentence(segwright("train", "--resume", tmp_path), 2, "is not a run")
    assert_one_sentence(segwright("predict", tmp_path, "x.png"), 2, "x.png")
    assert_one_sentence(segwright("report", tmp_path), 2, "no segmenter")


def test_one_bad_image_does_not_stop_a_folder(tmp_path: Path, tiny_segmenter: Segmenter) -> None:
    tiny_segmenter.save(tmp_path / "segmenter")
    for number in range(3):
        write_pair(tmp_path, "new", f"{number}", number)
    (tmp_path / "images" / "new" / "1.png").write_bytes(b"")
    source = tmp_path / "images" / "new"
    done = segwright("predict", tmp_path / "segmenter", source, "--out", tmp_path / "out", "--runtime", "torch")
    assert_one_sentence(done, 1, "1.png")
    assert "2 mask files" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"0.png", "2.png", "classes.json"}


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path: Path, tiny_segmenter: Segmenter) -> None:
    """A limit on the size of files stands for the full disk; the system's error differs in its number only."""
    tiny_segmenter.save(tmp_path / "segmenter")
    write_pair(tmp_path, "new", "a", 0, size=(256, 256))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))

    out = tmp_path / "out"
    source = tmp_path / "images" / "new"
    done = segwright(
        *("predict", tmp_path / "segmenter", source, "--output", "probabilities", "--out", out),
        *("--runtime", "torch"),
        preexec_fn=limit,
    )
    assert_one_sentence(done, 1, "a.npz")
    assert {path.name for path in out.iterdir()} == {"classes.json"}


def test_an_export_that_cannot_be_is_one_sentence(tmp_path: Path, tiny_segmenter: Segmenter) -> None:
    tiny_segmenter.save(tmp_path / "segmenter")
    done = segwright("export", tmp_path / "segmenter", "--to", "onnx", "--precision", "bf16")
    assert_one_sentence(done, 2, "--to onnx has fp32, int8")
    assert_one_sentence(segwright("export", tmp_path / "segmenter"), 2, "--data")
    assert_one_sentence(segwright("bench", tmp_path / "segmenter"), 2, "--data")


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_resumes(rectangles: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "segwright.cli", "train", str(rectangles), *SETTINGS, "--out", str(run)]
    process = subprocess.Popen(
        [*command, "--steps", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log = run / "log.csv"
    while not (log.is_file() and len(log.read_text().splitlines()) > 1) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(2)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"segwright train --resume {run}" in " ".join(output.split())
    assert "Traceback" not in errors
    assert (run / "checkpoint.pt").is_file()
