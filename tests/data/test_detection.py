from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from segwright.data.description import Description
from segwright.data.detection import Detection, detect_encoding
from segwright.data.measures import measure_mask


def blocks(*values: int, dtype=np.uint8) -> np.ndarray:
    """A mask of 6 x 6 squares, one a value."""
    return np.kron(np.array([values], dtype), np.ones((6, 6), dtype))


def named(*names: str, **more) -> Description:
    return Description("dataset.yaml", dict(enumerate(names)), **more)


@pytest.fixture
def detect(tmp_path):
    def run(*masks: np.ndarray, description: Description = Description(), suffix: str = "png") -> Detection:  # noqa: B008
        facts = []
        for i, mask in enumerate(masks):
            path: Path = tmp_path / f"{i}.{suffix}"
            if suffix == "tif":
                tifffile.imwrite(path, mask)
            else:
                PillowImage.fromarray(mask).save(path)
            facts.append(measure_mask(path))
        return detect_encoding(facts, description)

    return run


@pytest.mark.parametrize(
    ("values", "kind", "stored", "void"),
    [
        ((0, 1), "index", (0, 1), (255,)),
        ((0, 1, 2, 3), "index", (0, 1, 2, 3), (255,)),
        ((0, 1, 2, 255), "index", (0, 1, 2), (255,)),
        ((0, 255), "gray", (0, 255), ()),
        ((255,), "gray", (0, 255), ()),
        ((0, 128, 255), "gray", (0, 128, 255), ()),
        ((0, 1, 4), "gray", (0, 1, 4), (255,)),
        ((1, 2, 3), "gray", (1, 2, 3), (255,)),
        ((0, 85, 170, 255), "gray", (0, 85, 170, 255), ()),
    ],
)
def test_values_without_description(detect, values, kind, stored, void):
    encoding = detect(blocks(*values)).encoding

    assert (encoding.kind, encoding.values, encoding.void) == (kind, stored, void)


def test_values_are_gathered_over_all_masks(detect):
    assert detect(blocks(0, 1), blocks(0, 2), blocks(0)).encoding.values == (0, 1, 2)


def test_two_classes_are_background_and_foreground(detect):
    assert detect(blocks(0, 255)).classes.names == ("background", "foreground")
    assert detect(blocks(0, 1, 2)).classes.names == ("class_0", "class_1", "class_2")


def test_gaps_and_void_are_said(detect):
    notes = detect(blocks(0, 1, 4, 255)).notes

    assert "255 is read as void" in notes[0]
    assert "0 → 0, 1 → 1, 4 → 2" in notes[1]


def test_ignored_value_is_void(detect):
    detection = detect(blocks(0, 1, 11), description=named("a", "b", ignore=(11,)))

    assert (detection.encoding.values, detection.encoding.void) == ((0, 1), (11, 255))


def test_ignored_name_is_void_and_no_class(detect):
    detection = detect(blocks(0, 1, 2), description=named("other", "a", "b", ignore=(0,)))

    assert (detection.encoding.values, detection.encoding.void) == ((1, 2), (0, 255))
    assert detection.classes.names == ("a", "b")


def test_names_by_stored_value_are_followed(detect):
    detection = detect(blocks(0, 7, 255), description=Description("dataset.yaml", {0: "a", 7: "b", 255: "c"}))

    assert detection.encoding.values == (0, 7, 255)


def test_two_names_and_0_255_are_gray(detect):
    detection = detect(blocks(0, 255), description=named("membrane", "cell"))

    assert (detection.encoding.kind, detection.encoding.values) == ("gray", (0, 255))
    assert detection.classes.names == ("membrane", "cell")


def test_two_names_and_0_255_are_void_if_the_description_says_so(detect):
    detection = detect(blocks(0, 255), description=named("a", "b", ignore=(255,)))

    assert (detection.encoding.kind, detection.encoding.void) == ("index", (255,))


def test_as_many_gray_levels_as_names_are_those_classes(detect):
    detection = detect(blocks(0, 128, 255), description=named("a", "b", "c"))

    assert detection.encoding.values == (0, 128, 255)
    assert "in this order" in detection.notes[0]


def test_index_beyond_the_names_is_not_mapped(detect):
    assert detect(blocks(0, 1, 3), description=named("a", "b", "c")).encoding.values == (0, 1, 2)


@pytest.mark.parametrize(
    ("masks", "description", "message"),
    [
        ([blocks(0, 255)], named("a", "b", "c"), "names 3 classes, but the masks hold only 0 and 255"),
        ([blocks(0, 255)], named("a"), "names 1 class.*name the background too"),
        ([blocks(0, 1), blocks(0, 255)], Description(), "foreground as 1 and others as 255"),
        ([blocks(0, 1), blocks(0, 255)], named("a", "b"), "foreground as 1 and others as 255"),
        ([blocks(0)], Description(), "only the value 0, but two"),
        ([np.dstack([blocks(0, 9), blocks(0, 0), blocks(0, 0)])], named("a", "b"), "in color and no colors"),
    ],
)
def test_what_cannot_be_known_is_an_error(detect, masks, description, message):
    detection = detect(*masks, description=description)

    assert detection.encoding is None
    import re

    assert re.search(message, detection.error)


def test_more_than_255_values_are_an_error(detect):
    parts = [blocks(*range(start, start + 60), dtype=np.uint16) for start in range(0, 300, 60)]

    assert "300 different values, but at most 255 classes" in detect(*parts, suffix="tif").error


@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_are_no_masks(detect, channels):
    photograph = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 255, (64, 64, channels), dtype=np.uint8), (0, 0), 1
    )

    detection = detect(photograph)

    assert "as in a photograph" in detection.rejected[0]
    assert detection.encoding is None


def test_blurred_masks_saved_as_png_again_are_rejected(detect, disk):
    ok, jpeg = cv2.imencode(".jpg", disk, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert ok

    detection = detect(cv2.imdecode(jpeg, cv2.IMREAD_UNCHANGED), disk)

    assert list(detection.rejected) == [0]
    assert detection.encoding.values == (0, 255)


def test_wide_values_are_read(detect):
    assert detect(blocks(0, 65535, dtype=np.uint16), suffix="tif").encoding.values == (0, 65535)


def test_colors_are_sorted_black_first(detect):
    mask = np.dstack([blocks(255, 0, 0), blocks(0, 0, 9), blocks(0, 0, 0)])

    detection = detect(mask, blocks(0, 0, 0))

    assert detection.encoding.values == ((0, 0, 0), (0, 9, 0), (255, 0, 0))
    assert detection.classes.colors == detection.encoding.values


def test_colors_follow_the_description(detect):
    mask = np.dstack([blocks(255, 0, 7), blocks(0, 0, 7), blocks(0, 0, 0)])
    colors = {0: (255, 0, 0), 1: (0, 0, 0)}

    detection = detect(mask, description=named("a", "b", colors=colors, ignore_colors=((7, 7, 0),)))

    assert (detection.encoding.values, detection.encoding.void) == (((255, 0, 0), (0, 0, 0)), ((7, 7, 0),))


def test_rare_color_does_not_turn_equal_channels_into_gray_levels(detect):
    equal = np.repeat(blocks(0, 255)[..., None], 3, axis=2)
    red = np.dstack([blocks(0, 255), blocks(0, 0), blocks(0, 0)])

    assert detect(equal, equal, red).encoding.values == ((0, 0, 0), (255, 0, 0), (255, 255, 255))


def test_one_color_mask_among_indices_is_rejected(detect):
    red = np.dstack([blocks(0, 255), blocks(0, 0), blocks(0, 0)])

    assert "in color, but most" in detect(blocks(0, 1), blocks(0, 1), red).rejected[2]


def save_palette(path: Path, indices: np.ndarray, palette: list[int]) -> Path:
    image = PillowImage.fromarray(indices, "P")
    image.putpalette(palette + [0] * (768 - len(palette)))
    image.save(path)
    return path


def test_palette_indices_are_classes_and_its_colors_their_colors(tmp_path):
    path = save_palette(tmp_path / "a.png", blocks(0, 1, 2, 255), [0, 0, 0, 128, 0, 0, 0, 128, 0])

    detection = detect_encoding([measure_mask(path)], Description())

    assert (detection.encoding.values, detection.encoding.void) == ((0, 1, 2), (255,))
    assert detection.classes.colors == ((0, 0, 0), (128, 0, 0), (0, 128, 0))


def test_mask_with_a_palette_of_its_own_is_rejected(tmp_path):
    usual, other = [0, 0, 0, 128, 0, 0], [128, 0, 0, 0, 0, 0]
    paths = [save_palette(tmp_path / f"{i}.png", blocks(0, 1), p) for i, p in enumerate([usual, usual, other])]

    detection = detect_encoding([measure_mask(path) for path in paths], Description())

    assert list(detection.rejected) == [2]
    assert "another color than in most" in detection.rejected[2]


@pytest.fixture
def disk():
    return cv2.circle(np.zeros((64, 64), np.uint8), (30, 30), 20, 255, -1)


def test_smoothed_mask_is_rejected_and_the_others_are_read(detect, disk):
    smooth = cv2.circle(np.zeros((64, 64), np.uint8), (30, 30), 20, 255, -1, cv2.LINE_AA)

    detection = detect(disk, smooth, disk)

    assert detection.encoding.values == (0, 255)
    assert "lie only along edges" in detection.rejected[1]


def test_smoothed_colors_are_rejected(detect, disk):
    smooth = cv2.GaussianBlur(disk, (5, 5), 1)

    assert "along edges" in detect(np.dstack([smooth, smooth // 2, smooth * 0])).rejected[0]


@pytest.mark.parametrize("foreground", [1, 255])
@pytest.mark.parametrize("description", [Description(), named("a", "b")])
def test_jpeg_masks_are_rejected(detect, disk, foreground, description):
    noise = np.random.default_rng(0).integers(0, 3, disk.shape, dtype=np.uint8)
    mask = np.minimum(disk, foreground) + (noise if foreground == 1 else 0)

    detection = detect(mask, description=description, suffix="jpg")

    assert "JPEG" in detection.rejected[0]
    assert detection.encoding is None


def test_thin_contour_class_is_read_and_said(detect, disk):
    contour = cv2.circle(disk.copy(), (30, 30), 20, 128, 1)

    detection = detect(contour)

    assert detection.encoding.values == (0, 128, 255)
    assert any("128 is read as a class, but" in note for note in detection.notes)


def test_random_index_masks_are_not_smoothing(detect):
    mask = np.random.default_rng(0).integers(0, 20, (32, 32), dtype=np.uint8)

    assert detect(mask).encoding.values == tuple(range(20))
