import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from segwright.data.encoding import MaskEncoding
from segwright.data.inspection import Inspection, inspect
from segwright.types import Classes

SHARED = Path(__file__).parents[3] / "shared" / "data"


def save(root: Path, file: str, pixels: np.ndarray, **options) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(pixels).save(root / file, **options)


def two_halves(first: int = 0, second: int = 255) -> np.ndarray:
    """First value in the upper half, second in the lower."""
    return np.repeat(np.array([[first], [second]], np.uint8), 6, axis=0).repeat(10, axis=1)


@pytest.fixture
def root(tmp_path):
    """Four training and two validation pairs of 12 x 10 in color."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            save(tmp_path, f"images/{split}/{split}{i}.png", rng.integers(0, 255, (12, 10, 3), dtype=np.uint8))
            save(tmp_path, f"masks/{split}/{split}{i}.png", two_halves())
    return tmp_path


def messages(inspection: Inspection) -> list[tuple[str, str]]:
    return [(problem.severity, problem.file) for problem in inspection.problems]


def test_good_data_set_has_no_problems(root):
    inspection = inspect(root)

    assert inspection.problems == ()
    assert inspection.statistics.num_pairs == {"train": 4, "val": 2}
    assert inspection.dataset.channels == 3
    assert inspection.dataset.encoding == MaskEncoding("gray", (0, 255))


def test_pairs_of_the_data_set_can_be_read(root):
    dataset = inspect(root).dataset

    sample = dataset.read(dataset.splits["val"][0])

    assert np.array_equal(sample.mask, two_halves(0, 1))


def test_statistics_are_those_of_the_training_pixels(root):
    images = [np.array(PillowImage.open(path)) for path in sorted((root / "images/train").iterdir())]

    statistics = inspect(root).statistics

    assert np.allclose(statistics.channel_means, np.mean(images, axis=(0, 1, 2)))
    assert np.allclose(statistics.channel_deviations, np.std(images, axis=(0, 1, 2)))
    assert statistics.heights == (12, 12.0, 12)
    assert statistics.widths == (10, 10.0, 10)
    assert statistics.class_shares == (0.5, 0.5)
    assert statistics.class_presence == {"train": (1.0, 1.0), "val": (1.0, 1.0)}
    assert statistics.dtypes == {"uint8": 6}


def test_halves_that_differ_are_measured(root):
    statistics = inspect(root).statistics

    assert statistics.vertical_asymmetry == 1
    assert statistics.horizontal_asymmetry == 0


def test_void_counts_in_no_share(root):
    for path in (root / "masks").rglob("*.png"):
        mask = two_halves(0, 1)
        mask[:, 5:] = 255
        save(root, str(path.relative_to(root)), mask)

    statistics = inspect(root).statistics

    assert statistics.void_share == 0.5
    assert statistics.class_shares == (0.5, 0.5)


def test_imbalance_begins_beyond_one_to_three(root):
    mask = two_halves(0, 0)
    mask[:3] = 255
    for path in (root / "masks").rglob("*.png"):
        save(root, str(path.relative_to(root)), mask)
    assert not inspect(root).statistics.is_imbalanced

    mask[0, 0] = 0
    for path in (root / "masks").rglob("*.png"):
        save(root, str(path.relative_to(root)), mask)
    assert inspect(root).statistics.is_imbalanced


def break_truncated(root):
    path = root / "images/train/train0.png"
    path.write_bytes(path.read_bytes()[:200])
    return "images/train/train0.png", "cut short"


def break_empty(root):
    (root / "masks/train/train0.png").write_bytes(b"")
    return "masks/train/train0.png", "0 bytes"


def break_size(root):
    save(root, "masks/train/train0.png", two_halves()[:8])
    return "masks/train/train0.png", "mask is 8 x 10, but its image is 12 x 10"


def break_channels(root):
    save(root, "images/train/train0.png", two_halves())
    return "images/train/train0.png", "channel count of 1, but most have 3"


def break_type(root):
    import cv2

    cv2.imwrite(str(root / "images/train/train0.png"), np.zeros((12, 10, 3), np.uint16))
    return "images/train/train0.png", "is uint16, but most are uint8"


def break_values(root):
    (root / "dataset.yaml").write_text("names: [a, b]\nignore: 7")
    for path in (root / "masks").rglob("*.png"):
        save(root, str(path.relative_to(root)), two_halves(0, 1))
    save(root, "masks/train/train0.png", two_halves(0, 3))
    return "masks/train/train0.png", "outside the classes: 3 (60 pixels)"


def break_jpeg(root):
    (root / "masks/train/train0.png").unlink()
    rng = np.random.default_rng(0)
    save(root, "masks/train/train0.jpg", rng.integers(0, 2, (12, 10), dtype=np.uint8) * 255, quality=50)
    return "masks/train/train0.jpg", "JPEG"


@pytest.mark.parametrize(
    "damage",
    [break_truncated, break_empty, break_size, break_channels, break_type, break_values, break_jpeg],
)
def test_pair_with_an_error_is_named_and_left_out(root, damage):
    file, message = damage(root)

    inspection = inspect(root)

    assert messages(inspection) == [("error", file)]
    assert message in inspection.problems[0].message
    assert [pair.name for pair in inspection.dataset.splits["train"]] == ["train1", "train2", "train3"]


def test_masks_that_cannot_be_understood_leave_nothing_to_train_on(root):
    (root / "dataset.yaml").write_text("names: [a, b, c]")

    inspection = inspect(root)

    assert messages(inspection) == [("error", ".")]
    assert inspection.dataset.encoding is None
    assert inspection.dataset.splits == {}
    json.dumps(inspection.to_json())


def test_float_image_with_nan_is_an_error(root):
    import tifffile

    for i in range(4):
        (root / f"images/train/train{i}.png").unlink()
        tifffile.imwrite(root / f"images/train/train{i}.tif", np.full((12, 10), np.nan if i == 0 else i, np.float32))
    shutil.rmtree(root / "images/val")
    shutil.rmtree(root / "masks/val")

    assert any("not finite" in problem.message for problem in inspect(root).problems)


def test_unpaired_files_are_warnings(root):
    (root / "masks/train/train0.png").unlink()
    (root / "images/val/val1.png").unlink()

    assert messages(inspect(root)) == [("warning", "images/train/train0.png"), ("warning", "masks/val/val1.png")]


def test_same_picture_in_train_and_val_names_both(root):
    pixels = np.array(PillowImage.open(root / "images/train/train2.png"))
    (root / "images/val/val0.png").unlink()
    save(root, "images/val/val0.bmp", pixels)

    (problem,) = inspect(root).problems

    assert (problem.severity, problem.file) == ("warning", "images/val/val0.bmp")
    assert "images/train/train2.png" in problem.message


def test_same_name_twice_is_a_warning(root):
    save(root, "images/train/train0.bmp", np.zeros((12, 10, 3), np.uint8))

    problems = inspect(root).problems

    assert [(p.severity, p.file) for p in problems] == [("warning", "images/train/train0.bmp")]
    assert "images/train/train0.png has the same name" in problems[0].message


def test_class_without_training_pixels_is_a_warning(root):
    (root / "dataset.yaml").write_text("names: [a, b, c]\nignore: 255")

    texts = [problem.message for problem in inspect(root).problems]

    assert any("class 1 'b' is in no training mask" in text for text in texts)


def test_empty_and_void_masks_are_warnings(root):
    for i in range(3):
        save(root, f"masks/train/train{i}.png", two_halves(0, 0))
    (root / "dataset.yaml").write_text("names: {0: a, 255: b}\nignore: 9")
    save(root, "masks/val/val0.png", two_halves(9, 9))

    inspection = inspect(root)

    assert inspection.statistics.num_empty == 3
    assert messages(inspection) == [("warning", "masks/val/val0.png"), ("warning", ".")]


def test_given_encoding_is_used_as_it_is(root):
    classes = Classes(("void", "cell"), ((0, 0, 0), (9, 9, 9)))

    inspection = inspect(root, MaskEncoding("gray", (255, 0)), classes)

    assert inspection.dataset.classes == classes
    assert inspection.dataset.read(inspection.dataset.splits["train"][0]).mask[0, 0] == 1
    assert inspect(root, MaskEncoding("index", (0, 1)), classes).dataset.splits == {}


def test_encoding_without_classes_is_refused(root):
    with pytest.raises(ValueError, match="came alone"):
        inspect(root, MaskEncoding("gray", (0, 255)))


def test_images_alone_are_inspected(tmp_path):
    save(tmp_path, "a.png", two_halves())

    inspection = inspect(tmp_path)

    assert inspection.dataset.classes is None
    assert inspection.statistics.num_pairs == {"test": 1}
    assert inspection.problems == ()


def test_progress_reaches_the_end(root):
    calls = []

    inspect(root, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(i, 6) for i in range(1, 7)]


def test_fingerprint_follows_pixels_and_not_files(root):
    before = inspect(root).statistics.fingerprint
    pixels = np.array(PillowImage.open(root / "images/train/train0.png"))
    (root / "images/train/train0.png").unlink()
    save(root, "images/train/train0.bmp", pixels)
    assert inspect(root).statistics.fingerprint == before

    save(root, "images/train/train0.bmp", pixels + 1)
    assert inspect(root).statistics.fingerprint != before


def test_json_holds_plain_values(root):
    content = inspect(root).to_json()

    assert json.loads(json.dumps(content)) == content
    assert content["splits"]["val"][0] == {"name": "val0", "image": "images/val/val0.png", "mask": "masks/val/val0.png"}


def test_reading_data_loads_no_torch():
    import subprocess

    code = "import sys, segwright.data.inspection; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not (SHARED / "membrane").is_dir(), reason="needs the shared data")
def test_membrane_masks_are_0_and_255():
    inspection = inspect(SHARED / "membrane")

    assert inspection.dataset.encoding == MaskEncoding("gray", (0, 255))
    assert inspection.statistics.num_pairs == {"train": 19, "val": 5}
    assert inspection.problems == ()


@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="needs the shared data")
def test_camvid_masks_are_indices_and_11_is_void(tmp_path):
    for part in ("images", "masks"):
        for split in ("train", "val"):
            (tmp_path / part / split).mkdir(parents=True)
            for path in sorted((SHARED / "camvid" / part / split).iterdir())[::20]:
                (tmp_path / part / split / path.name).symlink_to(path)
    shutil.copy(SHARED / "camvid/dataset.yaml", tmp_path)

    inspection = inspect(tmp_path)

    assert inspection.dataset.encoding == MaskEncoding("index", tuple(range(11)), (11, 255))
    assert inspection.dataset.classes.names[10] == "bicyclist"
    assert inspection.problems == ()
