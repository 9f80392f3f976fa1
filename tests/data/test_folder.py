from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from segwright.data.encoding import MaskEncoding
from segwright.data.folder import Dataset, find_pairs
from segwright.types import Classes


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def found(root: Path) -> dict[str, list[tuple[str, str | None]]]:
    return {
        split: [
            (pair.image.relative_to(root).as_posix(), pair.mask and pair.mask.relative_to(root).as_posix())
            for pair in pairs
        ]
        for split, pairs in find_pairs(root).splits.items()
    }


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("IMG", "Labels"), ("imgs", "gt")])
def test_splits_inside_images_and_masks(tmp_path, val, images, masks):
    touch(tmp_path, *(f"{f}/{s}/a.png" for f in (images, masks) for s in ("train", val, "test")))

    assert found(tmp_path) == {
        "train": [(f"{images}/train/a.png", f"{masks}/train/a.png")],
        "val": [(f"{images}/{val}/a.png", f"{masks}/{val}/a.png")],
        "test": [(f"{images}/test/a.png", f"{masks}/test/a.png")],
    }


def test_images_and_masks_inside_splits(tmp_path):
    touch(tmp_path, *(f"{s}/{f}/a.png" for f in ("images", "masks") for s in ("train", "val")))

    assert found(tmp_path) == {
        "train": [("train/images/a.png", "train/masks/a.png")],
        "val": [("val/images/a.png", "val/masks/a.png")],
    }


def test_nested_folders_are_part_of_the_name(tmp_path):
    touch(tmp_path, *(f"{f}/{s}/city/a.png" for f in ("images", "masks") for s in ("train", "val")))

    assert find_pairs(tmp_path).splits["train"][0].name == "city/a"


def test_siblings_are_split_by_name_the_same_way_every_time(tmp_path):
    touch(tmp_path, *(f"{f}/{i}.png" for f in ("image", "label") for i in range(24)))

    folder = find_pairs(tmp_path)

    assert {split: len(pairs) for split, pairs in folder.splits.items()} == {"train": 19, "val": 5}
    assert folder.splits == find_pairs(tmp_path).splits
    assert "a fifth" in folder.layout
    assert not set(folder.splits["train"]) & set(folder.splits["val"])


def test_two_pairs_give_one_for_validation(tmp_path):
    touch(tmp_path, "img/a.png", "img/b.png", "mask/a.png", "mask/b.png")

    assert {split: len(pairs) for split, pairs in find_pairs(tmp_path).splits.items()} == {"train": 1, "val": 1}


@pytest.mark.parametrize("mask", ["a_mask.png", "a-mask.png", "a_label.PNG", "mask_a.tif", "a_gt.bmp", "a_seg.png"])
def test_words_in_the_names_of_masks_are_understood(tmp_path, mask):
    touch(tmp_path, "images/a.jpg", f"masks/{mask}")

    assert found(tmp_path) == {"train": [("images/a.jpg", f"masks/{mask}")]}


@pytest.mark.parametrize(
    ("image", "mask"), [("x.png", "x_mask.png"), ("x.JPG", "x_seg.png"), ("x_image.png", "x_mask.png")]
)
def test_suffixes_in_one_folder(tmp_path, image, mask):
    touch(tmp_path, image, mask)

    assert found(tmp_path) == {"train": [(image, mask)]}


def test_suffixes_inside_splits(tmp_path):
    touch(tmp_path, "train/x.png", "train/x_mask.png", "val/y.png", "val/y_mask.png")

    assert found(tmp_path) == {"train": [("train/x.png", "train/x_mask.png")], "val": [("val/y.png", "val/y_mask.png")]}


def test_images_whose_names_start_like_masks_are_still_images(tmp_path):
    touch(tmp_path, "seg_1.png", "seg_1_mask.png")

    assert found(tmp_path) == {"train": [("seg_1.png", "seg_1_mask.png")]}


@pytest.mark.parametrize("prefix", ["", "images/"])
def test_images_alone_have_no_masks(tmp_path, prefix):
    touch(tmp_path, f"{prefix}a.png", f"{prefix}b.JPG", f"{prefix}notes.txt", f"{prefix}.hidden.png")

    assert found(tmp_path) == {"test": [(f"{prefix}a.png", None), (f"{prefix}b.JPG", None)]}


def test_description_names_colors_and_ignored_values(tmp_path):
    touch(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "dataset.yaml").write_text("names: {0: road, 1: car}\ncolors: [[1, 2, 3], [4, 5, 6]]\nignore: [11, 12]")

    description = find_pairs(tmp_path).description

    assert description.names == {0: "road", 1: "car"}
    assert description.colors == {0: (1, 2, 3), 1: (4, 5, 6)}
    assert description.ignore == (11, 12)


def test_ultralytics_paths_are_followed(tmp_path):
    touch(
        tmp_path, "pictures/images/one/a.png", "pictures/seg_masks/one/a.png", "images/two/b.png", "seg_masks/two/b.png"
    )
    (tmp_path / "data.yaml").write_text(
        "path: somewhere/else\ntrain: pictures/images/one\nval: images/two\nmasks_dir: seg_masks\nnames: [a, b]"
    )

    assert found(tmp_path) == {
        "train": [("pictures/images/one/a.png", "pictures/seg_masks/one/a.png")],
        "val": [("images/two/b.png", "seg_masks/two/b.png")],
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [a", "not valid YAML"),
        ("- a", "holds a list"),
        ("names: 3", "names is 3"),
        ("names: [a, b]\ncolors: [[0, 0, 0]]", "2 names and 1 colors"),
        ("colors: [[0, 0, 300]]", "three numbers"),
        ("ignore: void", "ignore is 'void'"),
        ("train: nowhere", "no such folder"),
    ],
)
def test_wrong_descriptions_say_what_is_wrong(tmp_path, content, message):
    touch(tmp_path, "images/a.png", "masks/a.png")
    (tmp_path / "dataset.yaml").write_text(content)

    with pytest.raises(ValueError, match=message):
        find_pairs(tmp_path)


def test_files_without_partner_are_listed(tmp_path):
    touch(tmp_path, "images/a.png", "images/b.png", "masks/a.png", "masks/c.png")

    folder = find_pairs(tmp_path)

    assert [path.relative_to(tmp_path).as_posix() for path in folder.unpaired] == ["images/b.png", "masks/c.png"]


def test_split_without_masks_is_listed_once(tmp_path):
    touch(tmp_path, "images/train/a.png", "masks/train/a.png", "images/test/b.png")

    folder = find_pairs(tmp_path)

    assert list(folder.splits) == ["train"]
    assert folder.unpaired == (tmp_path / "images/test",)


def test_two_files_of_one_name_are_not_used(tmp_path):
    touch(tmp_path, "images/a.png", "images/a.jpg", "images/b.png", "masks/a.png", "masks/b.png")

    folder = find_pairs(tmp_path)

    assert folder.ambiguous == ((tmp_path / "images/a.jpg", tmp_path / "images/a.png"),)
    assert [pair.name for pairs in folder.splits.values() for pair in pairs] == ["b"]


def test_folders_without_pairs_are_errors_with_the_layouts(tmp_path):
    (tmp_path / "file.png").touch()
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "other", "cats/a.png", "dogs/b.png")
    touch(tmp_path / "strangers", "images/a.png", "masks/b.png")

    for name, message in {
        "missing": "does not exist",
        "file.png": "is a file",
        "empty": "is empty",
        "other": "holds cats, dogs.*images/ beside masks/",
        "strangers": r"no image with a mask of the same name \(images/a.png, masks/b.png",
    }.items():
        with pytest.raises(ValueError, match=message):
            find_pairs(tmp_path / name)


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    PillowImage.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "images/a.png")
    PillowImage.fromarray(np.full((4, 5), 255, np.uint8)).save(tmp_path / "masks/a.png")
    folder = find_pairs(tmp_path)
    classes = Classes(("background", "foreground"), ((0, 0, 0), (255, 0, 0)))
    return Dataset(tmp_path, folder.layout, classes, MaskEncoding("gray", (0, 255)), folder.splits, 3)


def test_reading_a_pair_gives_classes(dataset):
    sample = dataset.read(dataset.splits["train"][0])

    assert sample.name == "a"
    assert sample.image.shape == (4, 5, 3)
    assert np.array_equal(sample.mask, np.ones((4, 5)))


@pytest.mark.parametrize(
    ("file", "pixels", "message"),
    [
        ("masks/a.png", np.zeros((5, 4), np.uint8), "mask is 5 x 4, but its image is 4 x 5"),
        ("masks/a.png", np.full((4, 5), 3, np.uint8), r"masks/a.png: the mask holds values outside.*3 \(20 pixels\)"),
        ("images/a.png", np.zeros((4, 5), np.uint8), "channel count of 1, but the data set has 3"),
    ],
)
def test_reading_a_wrong_pair_is_an_error(dataset, file, pixels, message):
    PillowImage.fromarray(pixels).save(dataset.root / file)

    with pytest.raises(ValueError, match=message):
        dataset.read(dataset.splits["train"][0])
