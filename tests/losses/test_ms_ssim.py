import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from segwright.losses import ms_ssim
from segwright.losses.ms_ssim import MultiScaleSSIM

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
BY_NUM_SCALES = {number: np.array(WEIGHTS[:number]) * 1.0001 / sum(WEIGHTS[:number]) for number in range(1, 6)}


def batch(*size, classes=3, void=0.2, images=2):
    """Regions of a tenth of the image's side, logits that know something about them, and void; in double precision."""
    torch.manual_seed(0)
    coarse = torch.rand(images, classes, *(max(1, side // 10) for side in size), dtype=torch.float64)
    index = [torch.arange(side) * coarse.shape[axis] // side for axis, side in enumerate(size, start=2)]
    for axis, places in enumerate(index, start=2):
        coarse = coarse.index_select(axis, places)
    mask = coarse.argmax(dim=1)
    logits = 2 * F.one_hot(mask, classes).movedim(-1, 1) + torch.randn(images, classes, *size, dtype=torch.float64)
    mask[torch.rand(images, *size) < void] = 255
    return logits.requires_grad_(), mask


def slow_similarity(p, g, valid, num_scales):
    """MS-SSIM of one image and class in numpy, by the formula."""
    p, g, valid = (x.astype(np.float64) for x in (p * valid, g * valid, valid))
    product = 1.0
    for scale, weight in enumerate(BY_NUM_SCALES[num_scales], start=1):

        def blur(x):
            return gaussian_filter(x, 1.5, radius=5)[(slice(5, -5),) * x.ndim]

        mean_p, mean_g, share = blur(p), blur(g), blur(valid)
        variance_p, variance_g = blur(p * p) - mean_p**2, blur(g * g) - mean_g**2
        covariance = blur(p * g) - mean_p * mean_g
        structure = (2 * covariance + 0.0009) / (variance_p + variance_g + 0.0009)
        luminance = (2 * mean_p * mean_g + 0.0001) / (mean_p**2 + mean_g**2 + 0.0001)
        alike = structure * luminance if scale == num_scales else structure
        product *= max((alike * share).sum() / share.sum(), 1e-4) ** weight
        p, g, valid = halve(p), halve(g), halve(valid)
    return product


def halve(x):
    """Means over 2 pixels an axis, of fewer at the end of an odd side."""
    for axis in range(x.ndim):
        x = np.pad(x, [(0, x.shape[a] % 2 if a == axis else 0) for a in range(x.ndim)], constant_values=np.nan)
        x = np.nanmean(x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :]), axis=axis + 1)
    return x


def slow_loss(logits, mask, num_scales):
    """The loss by the formula, for images that are not void alone."""
    p, labels = logits.detach().softmax(dim=1).numpy(), mask.numpy()
    present = [index for index in range(p.shape[1]) if (labels == index).any()]
    values = [
        1 - slow_similarity(p[image, index], labels[image] == index, labels[image] != 255, num_scales)
        for image in range(len(p))
        for index in present
    ]
    return np.mean(values)


def constant(side_a, side_b):
    """Two classes with probability 1/2 everywhere, and a mask of class 0."""
    return torch.zeros(1, 2, side_a, side_b, dtype=torch.float64), torch.zeros(1, side_a, side_b, dtype=torch.int64)


HALF = (2 * 0.5 + 0.0001) / (1.25 + 0.0001)
"""Luminance of 1/2 against 1; contrast and structure of two constants are alike."""


@pytest.mark.parametrize(
    ("size", "num_scales"), [((15,), 1), ((90,), 4), ((17, 30), 1), ((53, 46), 3), ((165, 163), 5), ((21, 22, 25), 2)]
)
def test_equals_the_formula_for_any_number_of_axes_and_odd_sides(size, num_scales):
    logits, mask = batch(*size)
    expected = slow_loss(logits, mask, num_scales)
    assert 0.02 < expected < 0.9
    assert MultiScaleSSIM()(logits, mask).item() == pytest.approx(expected, rel=1e-9)


def test_equals_scikit_image_at_one_scale():
    logits, mask = batch(20, 40, void=0.0)
    p, labels = logits.detach().softmax(dim=1).numpy(), mask.numpy()
    values = [
        structural_similarity(
            p[image, index],
            (labels[image] == index).astype(np.float64),
            gaussian_weights=True,
            use_sample_covariance=False,
            data_range=1.0,
        )
        for image in range(2)
        for index in range(3)
    ]
    assert MultiScaleSSIM()(logits, mask).item() == pytest.approx(1 - np.mean(np.power(values, 1.0001)), rel=1e-9)


def test_equals_the_factors_of_torchmetrics_and_scikit_image_at_five_scales():
    logits, mask = batch(176, 192, void=0.0, images=1)
    p = logits.detach().float().softmax(dim=1)[0, :, None]  # K 1 H W
    g = F.one_hot(mask[0], 3).movedim(-1, 0)[:, None].float()
    factors = []
    for scale in range(4):
        # With the other exponents 0 the product is the one factor.
        only = tuple(float(index == scale) for index in range(5))
        factors.append(
            multiscale_structural_similarity_index_measure(p, g, data_range=1.0, betas=only, reduction="none")
        )
    # torchmetrics pads the last scale by reflection; the paper's code and ours keep the window inside.
    coarsest = [F.avg_pool2d(x, 16)[:, 0].numpy() for x in (p, g)]
    last = [
        structural_similarity(*pair, gaussian_weights=True, use_sample_covariance=False, data_range=1.0)
        for pair in zip(*coarsest, strict=True)
    ]
    factors.append(torch.tensor(last))
    similarity = math.prod(factor**weight for factor, weight in zip(factors, WEIGHTS, strict=True))  # K
    assert MultiScaleSSIM()(logits, mask).item() == pytest.approx(1 - similarity.mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("sides", "num_scales"),
    [
        ((1, 1), 1), ((7, 300), 1), ((11, 11), 1), ((20, 20), 1), ((21, 21), 2), ((40, 90), 2), ((41, 41), 3),
        ((80, 80), 3), ((81, 99), 4), ((160, 200), 4), ((161, 161), 5),
    ],
)  # fmt: skip
def test_as_many_scales_are_used_as_fit_and_the_last_similarity_enters_once(sides, num_scales):
    # The released code of UNet 3+ multiplies the last power into each of the others: HALF to 4 times its weight.
    logits, mask = constant(*sides)
    expected = 1 - HALF ** BY_NUM_SCALES[num_scales][-1]
    assert MultiScaleSSIM()(logits, mask).item() == pytest.approx(expected, rel=1e-9)


def test_a_map_is_entirely_like_itself():
    mask = batch(165, 50, void=0.1)[1]
    logits = 1e4 * F.one_hot(mask.where(mask != 255, 0), 3).movedim(-1, 1).float()
    assert MultiScaleSSIM()(logits, mask) == 0


def test_the_opposite_of_the_mask_has_a_finite_loss_and_gradient():
    # Its covariance is negative, and a negative number has no real power.
    stripes = torch.arange(50) // 4
    mask = (stripes[:, None] + stripes).remainder(2)[None]
    logits = (4.0 * F.one_hot(1 - mask, 2).movedim(-1, 1)).requires_grad_()
    loss = MultiScaleSSIM()(logits, mask)
    loss.backward()
    assert 0.9 < loss < 1
    assert logits.grad.isfinite().all()


def test_descent_leads_to_the_mask():
    _, mask = batch(24, 24, void=0.0, images=1)
    logits = torch.zeros(1, 3, 24, 24, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(30):
        optimizer.zero_grad()
        MultiScaleSSIM()(logits, mask).backward()
        optimizer.step()
    assert (logits.argmax(dim=1) == mask).float().mean() > 0.99


@pytest.mark.parametrize("size", [(24,), (6, 23), (3, 4, 5)])
def test_gradients_are_those_of_the_loss(size):
    logits, mask = batch(*size)
    assert torch.autograd.gradcheck(lambda x: MultiScaleSSIM()(x, mask), logits, fast_mode=True)


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (30, 30)])
@pytest.mark.parametrize("classes", [1, 3])
def test_saturated_logits_have_a_finite_loss_and_gradient(size, classes):
    logits, mask = batch(*size, classes=classes)
    logits = (1e4 * logits.detach()).requires_grad_()
    loss = MultiScaleSSIM()(logits, mask)
    loss.backward()
    assert 0 <= loss <= 1
    assert logits.grad.isfinite().all()


def test_void_pixels_change_nothing():
    logits, mask = batch(45, 45)
    changed = torch.where(mask[:, None] == 255, 3.0, logits)
    loss = MultiScaleSSIM()(logits, mask)
    assert torch.equal(MultiScaleSSIM()(changed, mask), loss)
    loss.backward()
    assert not logits.grad.movedim(1, 0)[:, mask == 255].any()


def test_void_beside_an_image_does_not_make_it_look_alike():
    logits, mask = batch(16, 30)

    def padded(width):  # one scale, so that windows beyond the first ten void columns see void alone
        return F.pad(logits, (0, width)), F.pad(mask, (0, width), value=255)

    losses = [MultiScaleSSIM()(*padded(width)) for width in (10, 40, 200)]
    torch.testing.assert_close(losses[1:], losses[:1] * 2)


def test_images_of_void_alone_do_not_count():
    logits, mask = batch(45, 45, images=3)
    mask[1] = 255
    torch.testing.assert_close(MultiScaleSSIM()(logits, mask), MultiScaleSSIM()(logits[[0, 2]], mask[[0, 2]]))


def test_a_batch_of_void_alone_gives_zero_and_zero_gradients():
    logits, mask = batch(45, 45)
    loss = MultiScaleSSIM()(logits, torch.full_like(mask, 255))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_classes_that_the_batch_lacks_do_not_count_and_those_that_one_image_lacks_do():
    logits, mask = batch(45, 45, void=0.0)
    mask[mask == 2] = 1
    p, one_hot = logits.detach().softmax(dim=1).numpy(), np.stack([mask.numpy() == index for index in range(2)], axis=1)
    mask[0] = 1
    one_hot[0, 0], one_hot[0, 1] = False, True
    valid = np.ones((45, 45), bool)
    values = [1 - slow_similarity(p[i, k], one_hot[i, k], valid, 3) for i in range(2) for k in range(2)]
    assert MultiScaleSSIM()(logits, mask).item() == pytest.approx(np.mean(values), rel=1e-9)


def test_single_precision_is_enough():
    logits, mask = batch(165, 163)
    loss = MultiScaleSSIM()(logits.float(), mask)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(MultiScaleSSIM()(logits, mask).item(), rel=1e-5)


def test_half_precision_masks_of_bytes_and_channels_last_are_taken():
    logits, mask = batch(45, 45)
    logits = logits.bfloat16()
    expected = MultiScaleSSIM()(logits.float(), mask)
    loss = MultiScaleSSIM()(logits.to(memory_format=torch.channels_last), mask.to(torch.uint8))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


def test_autocast_does_not_coarsen_the_means():
    logits, mask = batch(45, 45)
    with torch.autocast("cpu", torch.bfloat16):
        loss = MultiScaleSSIM()(logits.float(), mask)
    assert torch.equal(loss, MultiScaleSSIM()(logits.float(), mask))


def test_two_processes_with_a_part_of_the_batch_equal_one(monkeypatch):
    logits, mask = batch(25, 25, images=5)
    mask[mask == 2] = 1
    mask[4][mask[4] == 1] = 2  # only the second part has this class
    mask[0] = 255
    expected = MultiScaleSSIM()(logits, mask)
    parts, counts = [(logits[:2], mask[:2]), (logits[2:], mask[2:])], []

    def keep(value):
        counts.append(value)
        return value

    monkeypatch.setattr(ms_ssim, "sum_over_processes", keep)
    for part in parts:
        MultiScaleSSIM()(*part)
    monkeypatch.setattr(ms_ssim, "sum_over_processes", lambda value: counts[0] + counts[1])
    monkeypatch.setattr(ms_ssim, "num_processes", lambda: 2)
    torch.testing.assert_close(sum(MultiScaleSSIM()(*part) for part in parts) / 2, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 2}, r"loss\.ms_ssim\.window is 2, .* try 11"),
        ({"sigma": 0.0}, r"loss\.ms_ssim\.sigma is 0\.0, .* try 1\.5"),
        ({"sigma": math.nan}, r"loss\.ms_ssim\.sigma is nan"),
    ],
)
def test_options_out_of_range_are_refused_with_the_recipe_key(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleSSIM(**arguments)


def test_a_mask_of_another_size_is_refused():
    logits, mask = batch(12, 13)
    with pytest.raises((ValueError, TypeCheckError), match="mask"):  # the second from the shape hook, when it is on
        MultiScaleSSIM()(logits, mask.transpose(1, 2))
