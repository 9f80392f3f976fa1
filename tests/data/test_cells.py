import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from segwright.data.cells import COLORS, NAMES, draw_cells, write_cells


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_the_layout_that_the_reader_expects(tmp_path):
    write_cells(tmp_path, num_train=2, num_val=1, size=(64, 96))
    assert sorted(contents(tmp_path)) == [
        "dataset.yaml",
        "images/train/train_000.png",
        "images/train/train_001.png",
        "images/val/val_000.png",
        "masks/train/train_000.png",
        "masks/train/train_001.png",
        "masks/val/val_000.png",
    ]
    image = cv2.imread(str(tmp_path / "images/train/train_000.png"), cv2.IMREAD_UNCHANGED)
    mask = cv2.imread(str(tmp_path / "masks/train/train_000.png"), cv2.IMREAD_UNCHANGED)
    assert (image.shape, image.dtype) == ((64, 96, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((64, 96), np.uint8)


def test_the_description_names_and_colors_each_class(tmp_path):
    write_cells(tmp_path, num_train=0, num_val=0)
    described = yaml.safe_load((tmp_path / "dataset.yaml").read_text())
    assert described["names"] == dict(enumerate(NAMES))
    assert described["colors"] == {index: list(color) for index, color in enumerate(COLORS)}


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for folder in ("first", "second"):
        write_cells(tmp_path / folder, num_train=2, num_val=1, size=(96, 96), seed=3)
    write_cells(tmp_path / "other", num_train=2, num_val=1, size=(96, 96), seed=4)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert contents(tmp_path / "first") != contents(tmp_path / "other")


def test_more_training_images_leave_the_others_as_they_are(tmp_path):
    write_cells(tmp_path / "few", num_train=1, num_val=1, size=(64, 64))
    write_cells(tmp_path / "many", num_train=3, num_val=1, size=(64, 64))
    assert contents(tmp_path / "few").items() <= contents(tmp_path / "many").items()


def test_no_two_images_are_equal(tmp_path):
    write_cells(tmp_path, num_train=4, num_val=4, size=(64, 64))
    images = [path.read_bytes() for path in tmp_path.glob("images/*/*.png")]
    assert len(set(images)) == 8


@pytest.mark.slow
def test_sixty_images_take_seconds_and_dividing_cells_are_rare(tmp_path):
    start = time.process_time()
    write_cells(tmp_path)
    assert time.process_time() - start < 12  # 1.8 s on an idle core; the margin is for shared machines
    masks = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in tmp_path.glob("masks/*/*.png")])
    shares = np.bincount(masks.ravel(), minlength=3) / masks.size
    assert len(shares) == 3
    assert 0.15 < shares[1] < 0.45
    assert 0.008 < shares[2] < 0.025


def test_no_threshold_separates_cells_from_background():
    drawn = [draw_cells((256, 256), np.random.default_rng(seed)) for seed in range(4)]
    green = np.stack([image[..., 1] for image, _ in drawn])
    cell = np.stack([mask > 0 for _, mask in drawn])
    overlaps = [((green < level) & cell).sum() / ((green < level) | cell).sum() for level in range(60, 250, 10)]
    assert max(overlaps) < 0.85


def test_neighbors_touch_and_most_keep_a_gap():
    _, mask = draw_cells((256, 256), np.random.default_rng(1))
    closed = cv2.morphologyEx((mask > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    assert cv2.connectedComponents(closed)[0] < cv2.connectedComponents((mask > 0).astype(np.uint8))[0]


@pytest.mark.parametrize("size", [(64, 64), (65, 200), (300, 71)])
def test_any_size_is_drawn(size):
    image, mask = draw_cells(size, np.random.default_rng(0))
    assert image.shape == (*size, 3)
    assert mask.shape == size
    assert mask.max() <= 2


def test_sides_too_short_for_a_cell_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 64 pixels"):
        write_cells(tmp_path, size=(32, 256))
