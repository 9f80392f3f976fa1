import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segwright.data.colors import default_colors
from segwright.data.encoding import MaskEncoding
from segwright.types import IGNORE_LABEL, Classes

SINGLE = st.lists(st.integers(0, 65535), min_size=3, max_size=12, unique=True)
COLOR = st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=3, max_size=12, unique=True)


def encode(encoding: MaskEncoding, labels: np.ndarray) -> np.ndarray:
    dtype = np.uint8 if encoding.kind == "color" else np.uint16
    table = np.zeros((256, 3) if encoding.kind == "color" else 256, dtype)
    table[: len(encoding.values)] = encoding.values
    if encoding.void:
        table[IGNORE_LABEL] = encoding.void[0]
    return table[labels]


@settings(max_examples=30, deadline=None)
@given(values=SINGLE, seed=st.integers(0, 99))
def test_decoding_what_was_encoded_gives_the_classes(values, seed):
    encoding = MaskEncoding("gray", tuple(values[:-1]), (values[-1],))
    labels = np.random.default_rng(seed).integers(-1, len(values) - 1, (5, 4)).astype(np.uint8)

    assert np.array_equal(encoding.decode(encode(encoding, labels)), labels)


@settings(max_examples=10, deadline=None)
@given(values=COLOR, seed=st.integers(0, 99))
def test_decoding_encoded_colors_gives_the_classes(values, seed):
    encoding = MaskEncoding("color", tuple(values[:-1]), (values[-1],))
    labels = np.random.default_rng(seed).integers(-1, len(values) - 1, (5, 4)).astype(np.uint8)

    assert np.array_equal(encoding.decode(encode(encoding, labels)), labels)


@settings(max_examples=30, deadline=None)
@given(values=SINGLE)
def test_dictionary_gives_the_encoding_back(values):
    encoding = MaskEncoding("gray", tuple(values[1:]), (values[0],))

    assert MaskEncoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


def test_dictionary_gives_colors_back():
    encoding = MaskEncoding("color", ((0, 0, 0), (1, 2, 3)), ((9, 9, 9),))

    assert MaskEncoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


def test_unknown_values_are_named_and_counted():
    stored = np.array([[0, 255], [7, 7]], np.uint8)

    with pytest.raises(ValueError, match=r"outside the classes: 7 \(2 pixels\), but 0 and 255 are known; correct"):
        MaskEncoding("gray", (0, 255)).decode(stored)


def test_unknown_colors_are_named_and_counted():
    stored = np.array([[[0, 0, 0], [1, 2, 3]]], np.uint8)

    with pytest.raises(ValueError, match=r"\(1, 2, 3\) \(1 pixel\)"):
        MaskEncoding("color", ((0, 0, 0), (255, 0, 0))).decode(stored)


def test_255_classes_leave_room_for_void():
    encoding = MaskEncoding("index", tuple(range(255)), (255,))
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)

    assert np.array_equal(encoding.decode(stored), stored)


def test_collapsed_color_mask_is_decoded_as_gray_colors():
    encoding = MaskEncoding("color", ((0, 0, 0), (255, 255, 255), (255, 0, 0)))

    assert np.array_equal(encoding.decode(np.array([[0, 255]], np.uint8)), [[0, 1]])


def test_color_mask_is_refused_where_single_values_are_needed():
    with pytest.raises(ValueError, match="mask is in color"):
        MaskEncoding("index", (0, 1)).decode(np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("kind", "values", "void", "message"),
    [
        ("gray", (0, 0), (), "repeat"),
        ("gray", (0, 1), (1,), "repeat"),
        ("gray", (), (), "0 classes"),
        ("gray", (0, 70000), (), "70000"),
        ("color", (0, 1), (), "three numbers"),
        ("index", (0, 2), (), "use kind gray"),
    ],
)
def test_impossible_encodings_are_refused(kind, values, void, message):
    with pytest.raises(ValueError, match=message):
        MaskEncoding(kind, values, void)


def test_description_can_be_checked_against_the_files():
    classes = Classes(("background", "foreground"), ((0, 0, 0), (255, 0, 0)))

    assert (
        MaskEncoding("gray", (0, 255)).describe(classes)
        == "0/255: 0 is class 0 'background', 255 is class 1 'foreground'"
    )


def test_description_of_an_index_mask_is_short():
    classes = Classes(tuple("abcdefghijk"), default_colors(11))

    text = MaskEncoding("index", tuple(range(11)), (11, 255)).describe(classes)

    assert text == "index: the stored values 0 to 10 are the classes themselves; 11 and 255 are void"


@pytest.mark.parametrize("count", [1, 2, 3, 20, 255])
def test_default_colors_differ(count):
    colors = default_colors(count)

    assert len(set(colors)) == count == len(colors)


def test_first_dozen_colors_are_far_apart():
    colors = np.array(default_colors(12), int)
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=2) + 999 * np.eye(12, dtype=int)

    assert distances.min() > 90


def test_background_of_a_pair_is_dark():
    assert max(default_colors(2)[0]) < 64
