import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information

from segwright.metrics.membrane import Membrane, grow_cells

NAMES = ["v_rand", "v_rand_split", "v_rand_merge", "v_info", "v_info_split", "v_info_merge"]


def score(mask, predicted, **settings):
    metric = Membrane(**{"num_classes": 2} | settings)
    return {name: float(value) for name, value in metric.scores(metric.count(mask, predicted)).items()}


def walls(*positions, size=12):
    """Cells (1) side by side, with membranes (0) in the columns that are named."""
    mask = np.ones((3, size), np.uint8)
    mask[:, list(positions)] = 0
    return mask


def random_pair(seed: int, *, shape=(17, 22), void: float = 0.1):
    """Random cells with a few gaps in their membranes, and another such map."""
    generator = np.random.default_rng(seed)
    cuts = np.zeros(shape, bool)
    for axis, side in enumerate(shape):
        np.moveaxis(cuts, axis, 0)[generator.integers(side, size=2)] = True
    mask, predicted = ((~cuts | (generator.random(shape) < 0.03)).astype(np.uint8) for _ in range(2))
    mask[generator.random(shape) < void] = 255
    return mask, predicted


pairs = st.builds(random_pair, st.integers(0, 2**31))


def by_other_libraries(mask, predicted):
    """Scores without thinning, from labels and tables of scikit-image, scipy's sparse tables and entropies."""
    cells = label((mask == 1).astype(int), connectivity=1, background=0)
    found = label(((predicted == 1) & (mask != 255)).astype(int), connectivity=1, background=0)
    alone = (cells > 0) & (found == 0)
    found[alone] = found.max() + 1 + np.arange(alone.sum())
    cells, found = cells[cells > 0], found[cells > 0]
    # scikit-image leaves out the pairs of a pixel with itself, which large counts make invisible.
    table = csr_array((np.full(len(cells), 1e9), (cells, found)))
    rand = 1 - adapted_rand_error(table=table)[0]
    of_true, of_found = (scipy.stats.entropy(np.bincount(ids), base=2) for ids in (cells, found))
    assume(min(of_true, of_found) > 0)
    splits, _ = variation_of_information(cells, found)
    information = of_found - splits
    return rand, 2 * information / (of_true + of_found), information / of_found, information / of_true


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_scores_without_thinning_are_those_of_other_libraries(pair):
    scores = score(*pair, thinning=False)
    ours = [scores[name] for name in ("v_rand", "v_info", "v_info_split", "v_info_merge")]
    np.testing.assert_allclose(ours, by_other_libraries(*pair), rtol=1e-6, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_rand_scores_are_shares_of_pairs_of_pixels(pair):
    mask, predicted = pair
    cells = label((mask == 1).astype(int), connectivity=1, background=0)
    found = label(((predicted == 1) & (mask != 255)).astype(int), connectivity=1, background=0)
    cells, found, alone = cells[cells > 0], found[cells > 0], np.arange((cells > 0).sum())
    same_cell = cells[:, None] == cells
    same_found = np.where(found[:, None] > 0, found[:, None] == found, alone[:, None] == alone)
    both = (same_cell & same_found).sum()
    scores = score(mask, predicted, thinning=False)
    assert scores["v_rand_split"] == pytest.approx(both / same_cell.sum())
    assert scores["v_rand_merge"] == pytest.approx(both / same_found.sum())
    assert scores["v_rand"] == pytest.approx(2 * both / (same_cell.sum() + same_found.sum()))


@pytest.mark.parametrize("thinning", [False, True])
def test_a_split_lowers_only_the_split_scores(thinning):
    scores = score(walls(8), walls(4, 8), thinning=thinning)
    assert scores["v_info_merge"] == pytest.approx(1)
    assert scores["v_rand_merge"] == pytest.approx(1)
    assert scores["v_info_split"] < 0.8
    assert scores["v_rand_split"] < 0.8


@pytest.mark.parametrize("thinning", [False, True])
def test_a_merger_lowers_only_the_merge_scores(thinning):
    scores = score(walls(4, 8), walls(8), thinning=thinning)
    assert scores["v_info_split"] == pytest.approx(1)
    assert scores["v_rand_split"] == pytest.approx(1)
    assert scores["v_info_merge"] < 0.8
    assert scores["v_rand_merge"] < 0.8


def test_a_worked_merger_is_counted_by_hand():
    scores = score(walls(4, 8, size=13), walls(8, size=13))  # cells of 4, 3 and 4 columns; the first two are one
    shares, merged = np.array([4, 3, 4]) / 11, np.array([7, 4]) / 11
    entropy, merged_entropy = (-(parts * np.log(parts)).sum() for parts in (shares, merged))
    assert scores["v_rand_merge"] == pytest.approx((shares**2).sum() / (merged**2).sum())
    assert scores["v_info_merge"] == pytest.approx(merged_entropy / entropy)
    assert scores["v_info"] == pytest.approx(2 * merged_entropy / (entropy + merged_entropy))


@settings(max_examples=10, deadline=None)
@given(pairs, st.booleans())
def test_f_scores_are_harmonic_means_of_split_and_merge(pair, thinning):
    scores = score(*pair, thinning=thinning)
    for name in ("v_rand", "v_info"):
        split, merge = scores[f"{name}_split"], scores[f"{name}_merge"]
        assert scores[name] == pytest.approx(2 * split * merge / (split + merge) if split + merge else 0)


def test_the_width_of_membranes_does_not_matter_after_thinning():
    mask = walls(5, 6)
    assert score(mask, walls(3, 4, 5, 6, 7, 8)) == pytest.approx(dict.fromkeys(NAMES, 1))
    wide = score(mask, walls(3, 4, 5, 6, 7, 8), thinning=False)
    assert wide["v_rand_merge"] == pytest.approx(1)  # pixels alone merge nothing
    assert wide["v_rand_split"] < 0.5


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_cells_grow_to_the_nearest_pixels(pair):
    cells = label(pair[1], connectivity=1).astype(np.int32)
    grown = grow_cells(cells)
    places = np.argwhere(cells > 0)
    for place in np.argwhere(cells == 0):
        distances = ((places - place) ** 2).sum(axis=1)
        nearest = {int(cells[tuple(found)]) for found in places[distances == distances.min()]}
        assert int(grown[tuple(place)]) in nearest
    np.testing.assert_array_equal(grown[cells > 0], cells[cells > 0])


@settings(max_examples=10, deadline=None)
@given(pairs, st.booleans())
def test_a_perfect_prediction_scores_one(pair, thinning):
    mask, predicted = pair
    perfect = np.where(mask == 255, predicted, mask)  # anything in void
    assert score(mask, perfect, thinning=thinning) == pytest.approx(dict.fromkeys(NAMES, 1))


def test_a_single_cell_that_is_found_scores_one_and_one_that_is_cut_has_no_information():
    whole = walls()
    assert score(whole, whole) == dict.fromkeys(NAMES, 1.0)
    cut = score(whole, walls(2, 7))
    assert cut["v_info"] == pytest.approx(0, abs=1e-12)
    assert cut["v_info_split"] == pytest.approx(0, abs=1e-12)
    assert cut["v_info_merge"] == 1
    assert cut["v_rand_merge"] == pytest.approx(1)


@pytest.mark.parametrize("size", range(33, 36))
def test_rounding_gives_a_single_cell_no_entropy(size):
    scores = score(walls(size=size), walls(*range(1, size, 3), size=size), thinning=False)
    assert scores["v_info_merge"] == 1


@pytest.mark.parametrize("thinning", [False, True])
def test_a_prediction_of_nothing_but_membrane_splits_all_pixels(thinning):
    scores = score(walls(5), np.zeros((3, 12), np.uint8), thinning=thinning)
    assert scores["v_rand_merge"] == pytest.approx(1)
    assert scores["v_rand_split"] == pytest.approx(33 / (15**2 + 18**2))


@settings(max_examples=10, deadline=None)
@given(pairs, st.integers(0, 2**31), st.booleans())
def test_predictions_in_void_change_nothing(pair, seed, thinning):
    mask, predicted = pair
    noise = np.random.default_rng(seed).integers(2, size=mask.shape).astype(np.uint8)
    changed = np.where(mask == 255, noise, predicted)
    assert score(mask, changed, thinning=thinning) == score(mask, predicted, thinning=thinning)


@pytest.mark.parametrize("thinning", [False, True])
@pytest.mark.parametrize("columns", [(5, 6, 7), (6,), (5, 7)])
def test_what_is_predicted_on_the_true_membrane_does_not_count(columns, thinning):
    scores = score(walls(5, 6, 7), walls(*columns), thinning=thinning)
    assert scores == pytest.approx(dict.fromkeys(NAMES, 1))


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_flips_and_transposition_change_nothing(pair):
    before = score(*pair, thinning=False)
    for move in (np.flipud, np.fliplr, np.transpose):
        assert score(*(move(classes) for classes in pair), thinning=False) == pytest.approx(before)


def test_flips_change_nothing_after_thinning_where_no_two_cells_are_equally_near():
    mask, predicted = walls(6, 7, size=20), walls(2, 3, 8, 9, 14, 15, size=20)
    before = score(mask, predicted)
    for move in (np.flipud, np.fliplr, np.transpose):
        assert score(move(mask), move(predicted)) == pytest.approx(before)


@settings(max_examples=10, deadline=None)
@given(pairs)
def test_the_class_of_the_membrane_is_an_option(pair):
    mask, predicted = pair
    swapped = np.where(mask == 255, mask, 1 - mask).astype(np.uint8), 1 - predicted
    assert score(*swapped, membrane=1) == score(mask, predicted)


def test_all_classes_but_the_membrane_are_inside_of_cells():
    mask = walls(4)
    colored = mask.copy()
    colored[:, 6:] *= 2
    assert score(colored, mask, num_classes=3) == pytest.approx(dict.fromkeys(NAMES, 1))


def test_cells_that_touch_at_a_corner_are_two():
    mask = np.array([[1, 0], [0, 1]], np.uint8)
    scores = score(mask, np.ones_like(mask))
    assert scores["v_rand_split"] == 1
    assert scores["v_rand_merge"] == pytest.approx(1 / 2)


def test_volumes_are_compared_as_images_are():
    mask, predicted = walls(4, 8), walls(8)
    assert score(np.stack([mask] * 3), np.stack([predicted] * 3)) == pytest.approx(score(mask, predicted))


@pytest.mark.parametrize("label_of_all", [0, 255])
def test_an_image_without_a_cell_counts_in_no_mean(label_of_all):
    metric = Membrane(num_classes=2)
    empty = np.full((3, 12), label_of_all, np.uint8)
    nothing = metric.count(empty, walls(3))
    assert not nothing.any()
    assert all(np.isnan(value) for value in metric.scores(nothing).values())
    something = metric.count(walls(4), walls(8))
    assert metric.scores(nothing + something) == metric.scores(something)


def test_one_class_is_all_membrane():
    empty = np.zeros((3, 4), np.uint8)
    assert np.isnan(score(empty, empty, num_classes=1)["v_rand"])


def test_scores_of_a_set_are_means_over_images_and_keep_leading_axes():
    metric = Membrane(num_classes=2)
    counts = np.stack([metric.count(*random_pair(seed)) for seed in range(4)])
    singles = metric.scores(counts)
    for name, value in metric.scores(counts.sum(axis=0)).items():
        assert singles[name].shape == (4,)
        assert value == pytest.approx(singles[name].mean())


def test_a_membrane_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"metric.membrane.membrane is 2, but there are 2 classes, 0 to 1"):
        Membrane(2, num_classes=2)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"the mask is \(3, 12\), but the prediction is \(2, 12\)"):
        score(walls(4), walls(4)[:2])


def test_the_protocol_says_what_becomes_of_predicted_membranes():
    assert "joins the nearest predicted cell" in Membrane(num_classes=2).protocol
    assert "is a cell of its own" in Membrane(thinning=False, num_classes=2).protocol
