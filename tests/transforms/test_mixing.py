"""Tests of pasting one view into another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from scipy import ndimage

from segwright.transforms._mixing import Mix, Mixing, list_classes
from segwright.types import IGNORE_LABEL, Sample

MIXES: list[Mix] = ["cutmix", "classmix", "copy_paste"]


def blobs(seed: int, size: tuple[int, int] = (40, 56), *, dtype: type = np.uint8, channels: int = 3) -> Sample:
    """Noise, and a mask of boxes of classes 1 to 3 on 0, with a void stripe."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, np.uint8)
    for label in (1, 2, 3, 1, 2):
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        mask[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)] = label
    mask[:, rng.integers(size[1])] = IGNORE_LABEL
    return Sample(f"{seed}", rng.integers(0, 255, (*size, channels)).astype(dtype), mask)


def mixed(mix: Mix, view: Sample, partner: Sample, seed: int = 0) -> Sample:
    return Mixing(mix, 1.0)(view, lambda: partner, np.random.default_rng(seed))


def pasted(mix: Mix, partner_mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which pixels come from a partner with this mask."""
    views = [Sample("", np.full((*partner_mask.shape, 1), value, np.uint8), partner_mask) for value in (0, 1)]
    return mixed(mix, *views, seed).image[..., 0] == 1


@pytest.mark.parametrize("mix", MIXES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), height=st.integers(12, 50), width=st.integers(12, 50))
def test_every_pixel_is_one_of_the_two_at_its_place_with_its_mask(mix: Mix, seed: int, height: int, width: int) -> None:
    view, partner = blobs(seed, (height, width)), blobs(seed + 1, (height, width))
    got = mixed(mix, view, partner, seed)
    # The pictures are noise: a pixel of both is rare, and then the masks may differ in either way.
    of_view = (got.image == view.image).all(axis=2) & (got.mask == view.mask)
    of_partner = (got.image == partner.image).all(axis=2) & (got.mask == partner.mask)
    assert (of_view | of_partner).all()
    assert got.name == view.name


@pytest.mark.parametrize("mix", MIXES)
def test_mask_values_never_leave_those_of_the_two(mix: Mix) -> None:
    for seed in range(20):
        view, partner = blobs(seed), blobs(seed + 100)
        got = mixed(mix, view, partner, seed)
        assert set(np.unique(got.mask)) <= set(np.unique(view.mask)) | set(np.unique(partner.mask))


@pytest.mark.parametrize("mix", MIXES)
def test_the_same_random_state_gives_the_same_mixture_and_others_do_not(mix: Mix) -> None:
    view, partner = blobs(1), blobs(2)
    mixtures = [mixed(mix, view, partner, seed).image.tobytes() for seed in (*range(12), 0)]
    assert mixtures[0] == mixtures[-1]
    assert len(set(mixtures)) > 4


@pytest.mark.parametrize("mix", MIXES)
def test_view_and_partner_stay_as_they_were(mix: Mix) -> None:
    view, partner = blobs(1), blobs(2)
    mixed(mix, view, partner)
    for sample, fresh in ((view, blobs(1)), (partner, blobs(2))):
        np.testing.assert_array_equal(sample.image, fresh.image)
        np.testing.assert_array_equal(sample.mask, fresh.mask)


def refuse() -> Sample:
    raise AssertionError("the partner was asked")


def test_without_mixing_nothing_is_drawn_and_no_partner_is_asked() -> None:
    rng, view = np.random.default_rng(0), blobs(1)
    assert Mixing("none", 1.0)(view, refuse, rng) is view
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
    assert Mixing("cutmix", 0.0)(view, refuse, rng) is view


def test_the_share_of_the_mixed_views_is_the_one_asked_for() -> None:
    mixing, view = Mixing("cutmix", 0.3), blobs(1)
    results = [mixing(view, lambda: blobs(2), np.random.default_rng(seed)) for seed in range(500)]
    assert np.mean([got is not view for got in results]) == pytest.approx(0.3, abs=0.08)


def test_cutmix_pastes_one_box_of_half_the_area() -> None:
    mask = np.zeros((60, 80), np.uint8)
    corners, heights = [], []
    for seed in range(200):
        chosen = pasted("cutmix", mask, seed)
        rows, columns = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
        assert chosen.sum() == len(rows) * len(columns)
        assert (np.ptp(rows), np.ptp(columns)) == (len(rows) - 1, len(columns) - 1)
        assert chosen.mean() == pytest.approx(0.5, abs=0.02)
        corners.append((rows[0] / max(1, 60 - len(rows)), columns[0] / max(1, 80 - len(columns))))
        heights.append(len(rows) / 60)
    assert min(heights) < 0.55
    assert max(heights) > 0.95
    # Places reach from edge to edge.
    assert np.min(corners) == 0
    assert np.max(corners, axis=0) == pytest.approx([1, 1], abs=0.01)


def test_cutmix_pastes_void_as_void() -> None:
    view, partner = blobs(1), blobs(2)
    partner = Sample("", partner.image, np.full_like(partner.mask, IGNORE_LABEL))
    got = mixed("cutmix", view, partner)
    is_new = (got.image != view.image).any(axis=2)
    assert is_new.mean() > 0.4
    assert (got.mask[is_new] == IGNORE_LABEL).all()


@pytest.mark.parametrize("num_classes", [1, 2, 3, 6])
def test_classmix_pastes_all_pixels_of_half_of_the_classes(num_classes: int) -> None:
    mask = np.arange(240, dtype=np.uint8).reshape(12, 20) % num_classes
    mask[0] = IGNORE_LABEL
    seen = set()
    for seed in range(40):
        chosen = pasted("classmix", mask, seed)
        classes = set(mask[chosen].tolist())
        assert len(classes) == num_classes // 2
        assert not classes & set(mask[~chosen].tolist())
        seen |= classes
    assert seen == (set(range(num_classes)) if num_classes > 1 else set())


def test_copy_paste_takes_whole_objects_but_neither_class_0_nor_void() -> None:
    mask = blobs(5).mask
    regions = [
        (labels == number)
        for label in np.unique(mask[(mask > 0) & (mask < IGNORE_LABEL)])
        for labels, count in [ndimage.label(mask == label, np.ones((3, 3)))]
        for number in range(1, count + 1)
    ]
    assert len(regions) > 3
    times = np.zeros(len(regions))
    for seed in range(300):
        chosen = pasted("copy_paste", mask, seed)
        taken = np.array([chosen[region].any() for region in regions])
        expected = np.array(regions)[taken].any(axis=0)
        np.testing.assert_array_equal(chosen, expected)
        times += taken
    # Each object has a chance of one half of its own; four standard errors are 0.12.
    np.testing.assert_allclose(times / 300, 0.5, atol=0.12)


def test_copy_paste_parts_objects_of_two_classes_that_touch() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[2:8, 2:10], mask[2:8, 10:18] = 1, 2
    found = {tuple(np.unique(mask[pasted("copy_paste", mask, seed)]).tolist()) for seed in range(40)}
    assert found == {(), (1,), (2,), (1, 2)}


def test_pixels_of_a_class_that_touch_at_a_corner_are_one_object() -> None:
    mask = np.eye(12, dtype=np.uint8)
    assert {int(pasted("copy_paste", mask, seed).sum()) for seed in range(20)} == {0, 12}


@pytest.mark.parametrize("mix", ["classmix", "copy_paste"])
@pytest.mark.parametrize("label", [0, IGNORE_LABEL])
def test_a_partner_without_objects_leaves_the_view(mix: Mix, label: int) -> None:
    assert not pasted(mix, np.full((16, 16), label, np.uint8)).any()


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 7])
def test_type_and_channels_stay(mix: Mix, dtype: type, channels: int) -> None:
    view, partner = (blobs(seed, dtype=dtype, channels=channels) for seed in (1, 2))
    got = mixed(mix, view, partner)
    assert (got.image.dtype, got.image.shape) == (dtype, view.image.shape)
    assert got.mask.dtype == np.uint8


def test_classes_are_listed_without_void() -> None:
    mask = np.array([[7, 7, 255], [0, 254, 255]], np.uint8)
    assert list_classes(mask).tolist() == [0, 7, 254]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises((ValueError, TypeCheckError), match="mix"):  # the second from the shape hook, when it is on
        Mixing("mixup")  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_out_of_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"transform\.mix_share"):
        Mixing("cutmix", share)
