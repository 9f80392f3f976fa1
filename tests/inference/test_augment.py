"""Tests of test-time augmentation."""

import weakref
from collections.abc import Callable
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segwright.commands import options
from segwright.data.encoding import MaskEncoding
from segwright.inference.augment import PRESETS, Augmented, add_views
from segwright.inference.description import Description, Tiling
from segwright.inference.engine import Engine, Scores
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.torch import TorchEngine
from segwright.types import Classes

SQUARE: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda x: x,
    lambda x: x[..., ::-1],
    lambda x: x[..., ::-1, :],
    lambda x: x[..., ::-1, ::-1],
    lambda x: np.swapaxes(x, -1, -2),
    lambda x: np.swapaxes(x, -1, -2)[..., ::-1],
    lambda x: np.swapaxes(x, -1, -2)[..., ::-1, :],
    lambda x: np.swapaxes(x, -1, -2)[..., ::-1, ::-1],
]
"""The eight poses of a square, by slices."""

INVERSE = [0, 1, 2, 3, 4, 6, 5, 7]
"""Which pose takes each of `SQUARE` back: all are their own, but for the turns by 90 degrees."""


class Probe:
    """An engine around any function of float images, as torch has them, that remembers the views it was shown."""

    runtime, margin, batch_size = "a probe", 0, 1

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        *,
        stride: int = 8,
        channels: int = 1,
        dtype: str = "uint8",
        tiling: Tiling | None = None,
    ) -> None:
        self.description = Description(
            network="ddrnet",
            arguments={},
            classes=Classes(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))),
            encoding=MaskEncoding("index", (0, 1, 2)),
            in_channels=channels,
            dtype=dtype,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            tiling=tiling or Tiling(),
        )
        self.stride = stride
        self.network = network
        self.seen: list[torch.Tensor] = []

    def __call__(self, images: np.ndarray, /, *, with_logits: bool) -> Scores:
        assert images.dtype == self.description.dtype
        view = torch.from_numpy(images.astype(np.float32)).permute(0, 3, 1, 2)
        self.seen.append(view)
        logits = self.network(view / 64 - 2).numpy()
        return Scores(logits.argmax(1).astype(np.uint8), logits if with_logits else None)


def run(engine: Engine, image: torch.Tensor) -> torch.Tensor:
    """Logits of an engine for images as torch has them."""
    logits = engine(image.permute(0, 2, 3, 1).numpy(), with_logits=True).logits
    assert logits is not None
    return torch.from_numpy(np.ascontiguousarray(logits))


def skewed(channels: int = 1) -> nn.Module:
    """Nine random weights a class, so that no flip and no turn leaves the logits as they are."""
    torch.manual_seed(0)
    network = nn.Conv2d(channels, 3, 3, padding=1).requires_grad_(False)
    network.weight.mul_(6)
    return network


def pixelwise(image: torch.Tensor) -> torch.Tensor:
    """Decides each pixel by its own value, so that tiles can change nothing; no value of a byte is a tie."""
    return torch.cat([-image, image, 0.51 - image.abs()], dim=1)


def picture(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_constant_network_stays_constant(preset: str) -> None:
    scores = torch.tensor([2.0, -1.0, 0.5]).reshape(1, 3, 1, 1)
    probe = Probe(lambda image: scores.expand(len(image), 3, *image.shape[-2:]))
    got = run(add_views(probe, preset), picture(1, 1, 40, 24)).softmax(1)
    torch.testing.assert_close(got, scores.softmax(1).expand(1, 3, 40, 24), atol=1e-6, rtol=0)


def test_a_single_view_gives_the_same_logits_to_the_last_bit(tiny_segmenter: Segmenter) -> None:
    engine = TorchEngine(tiny_segmenter)
    assert torch.equal(run(Augmented(engine), picture(2, 3, 64, 96)), run(engine, picture(2, 3, 64, 96)))
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    plain, wrapped = predict_image(engine, pixels), predict_image(Augmented(engine), pixels)
    np.testing.assert_array_equal(plain.mask, wrapped.mask)


def test_none_is_the_engine_itself() -> None:
    probe = Probe(pixelwise)
    assert add_views(probe, "none") is probe


def test_the_mirrored_image_gets_the_mirrored_prediction() -> None:
    flipped, image = Augmented(Probe(skewed()), flips="horizontal"), picture(1, 1, 24, 40)
    assert torch.equal(run(flipped, image.flip(-1)), run(flipped, image).flip(-1))
    assert not torch.equal(skewed()(image.flip(-1).float()), skewed()(image.float()).flip(-1))


@pytest.mark.parametrize("pose", range(8))
def test_every_pose_of_the_image_gets_the_prediction_in_that_pose(pose: int) -> None:
    posed, image = add_views(Probe(skewed()), "flips"), picture(1, 1, 24, 40)
    turned = torch.from_numpy(SQUARE[pose](image.numpy()).copy())
    np.testing.assert_allclose(run(posed, turned).numpy(), SQUARE[pose](run(posed, image).numpy()), atol=1e-4)


@pytest.mark.parametrize(
    ("flips", "turns", "poses"),
    [
        ("none", False, [0]),
        ("horizontal", False, [0, 1]),
        ("both", False, [0, 1, 2, 3]),
        ("none", True, [0, 3, 5, 6]),
        ("horizontal", True, range(8)),
        ("both", True, range(8)),
    ],
)
def test_the_mean_is_that_of_the_probabilities_of_each_pose_once(flips: str, turns: bool, poses: list[int]) -> None:
    probe, image = Probe(skewed()), picture(2, 1, 24, 40)
    expected = np.mean(
        [
            SQUARE[INVERSE[pose]](softmax(run(probe, torch.from_numpy(SQUARE[pose](image.numpy()).copy())).numpy()))
            for pose in poses
        ],
        axis=0,
    )
    probe.seen.clear()
    got = run(Augmented(probe, flips=flips, turns=turns), image).softmax(1)  # type: ignore[arg-type]
    assert len(probe.seen) == len(poses)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_each_scale_is_resized_and_brought_back_bilinearly() -> None:
    probe, image = Probe(skewed(), stride=4, dtype="float32"), picture(1, 1, 24, 40, dtype=torch.float32)
    expected = np.zeros((1, 3, 24, 40))
    for height, width in [(12, 20), (24, 40), (36, 60)]:
        view = cv2.resize(image[0, 0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
        logits = run(probe, torch.from_numpy(view)[None, None])[0].numpy()
        back = [cv2.resize(one, (40, 24), interpolation=cv2.INTER_LINEAR) for one in logits]
        expected += softmax(np.stack(back)[None]) / 3
    got = run(Augmented(probe, (0.5, 1.0, 1.5)), image).exp()
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 2.5), st.sampled_from([1, 8, 16]), st.booleans())
def test_views_are_multiples_of_the_stride_near_their_scale(
    rows: int, columns: int, scale: float, stride: int, turns: bool
) -> None:
    probe = Probe(pixelwise, stride=stride)
    logits = run(Augmented(probe, (scale,), turns=turns), picture(1, 1, rows * stride, columns * stride))
    assert logits.shape[-2:] == (rows * stride, columns * stride)
    for side, wanted in zip(probe.seen[0].shape[-2:], (rows * stride * scale, columns * stride * scale), strict=True):
        assert side == stride or abs(side - wanted) <= stride / 2 + 1e-6


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_smaller_than_a_stride_gets_a_mask_of_its_size(preset: str, tiny_segmenter: Segmenter) -> None:
    image = np.full((5, 7, 3), 90, np.uint8)
    assert predict_image(add_views(TorchEngine(tiny_segmenter), preset), image).mask.shape == (5, 7)


def test_tiles_of_views_agree_with_the_whole() -> None:
    image = picture(200, 137, 1).numpy()
    whole = add_views(Probe(pixelwise), "flips")
    tiled = add_views(Probe(pixelwise, tiling=Tiling(0, 64, 16)), "flips")
    expected = predict_image(whole, image, probabilities=True)
    got = predict_image(tiled, image, probabilities=True)
    assert expected.probabilities is not None
    assert got.probabilities is not None
    np.testing.assert_array_equal(got.mask, expected.mask)
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-5)


def test_scales_compose_with_tiles() -> None:
    smooth = cv2.GaussianBlur(picture(200, 136).numpy(), (0, 0), 8)
    image = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)[..., None]
    whole = predict_image(add_views(Probe(pixelwise), "full"), image).mask
    tiled = add_views(Probe(pixelwise, tiling=Tiling(0, 64, 16)), "full")
    assert np.mean(predict_image(tiled, image).mask == whole) > 0.98


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_view_has_the_type_of_the_image(dtype: str) -> None:
    image = picture(16, 24, 1).numpy().astype(dtype)
    probe = Probe(pixelwise, dtype=dtype)
    assert predict_image(add_views(probe, "full"), image).mask.shape == (16, 24)
    assert len(probe.seen) == 12


def test_resized_bytes_are_rounded_rather_than_cut_off() -> None:
    probe = Probe(pixelwise)
    run(
        Augmented(probe, (0.5,)),
        torch.tensor([[0, 0, 0, 3], [0, 3, 255, 255]]).repeat(8, 4).to(torch.uint8)[None, None],
    )
    assert probe.seen[0][0, 0, 0, :2].tolist() == [1, 128]  # of 0.75 and 128.25


def test_half_precision_changes_little(tiny_segmenter: Segmenter) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    half, single = (
        predict_image(add_views(TorchEngine(tiny_segmenter, precision=name), "full"), image, probabilities=True)
        for name in ("bf16", "fp32")
    )
    assert half.probabilities is not None
    assert half.probabilities.dtype == np.float32
    np.testing.assert_allclose(half.probabilities, single.probabilities, atol=0.05)


def test_certain_logits_stay_finite() -> None:
    image = picture(1, 1, 16, 16)
    got = run(Augmented(Probe(lambda view: 1e4 * pixelwise(view)), flips="horizontal"), image)
    assert bool(got.isfinite().all())
    assert torch.equal(got.argmax(1), pixelwise(image / 64 - 2).argmax(1))


def test_no_view_is_kept_while_the_next_one_is_computed() -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def network(image: torch.Tensor) -> torch.Tensor:
        alive.append(sum(reference() is not None for reference in made))
        logits = pixelwise(image)
        made.append(weakref.ref(logits))
        return logits

    run(add_views(Probe(network), "full"), picture(1, 1, 16, 16))
    assert alive == [0] * 12


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("none", "single scale, no flips"),
        ("flip", "the mean probabilities of 2 views (single scale, flips left to right)"),
        ("flips", "the mean probabilities of 8 views (single scale, flips in both directions, quarter turns)"),
        ("scales", "the mean probabilities of 3 views (scales 0.75, 1, 1.25, no flips)"),
        ("full", "the mean probabilities of 12 views (scales 0.5, 0.75, 1, 1.25, 1.5, 1.75, flips left to right)"),
    ],
)
def test_a_preset_says_in_words_what_it_predicts(preset: str, words: str) -> None:
    assert PRESETS[preset].describe() == words
    probe = Probe(pixelwise)
    run(add_views(probe, preset), picture(1, 1, 16, 16))
    assert len(probe.seen) == (1 if preset == "none" else int(words.split()[4]))


def test_the_command_line_takes_every_preset() -> None:
    assert get_args(get_args(options.Augment)[0]) == tuple(PRESETS)


def test_it_stands_for_the_engine_it_wraps() -> None:
    probe = Probe(pixelwise, stride=4)
    wrapped = Augmented(probe, (0.5, 1.0))
    assert (wrapped.description, wrapped.stride, wrapped.runtime) == (probe.description, 4, probe.runtime)


def test_poses_keep_what_tiles_may_be_cut_by_and_scales_do_not() -> None:
    probe = Probe(pixelwise)
    probe.margin = 16
    assert Augmented(probe, flips="both", turns=True).margin == 16
    assert Augmented(probe, (0.5, 1.0)).margin == 0


def test_an_unknown_preset_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="augment is 'flop', but known are none, flip, flips, scales, full; try flip"):
        add_views(Probe(pixelwise), "flop")


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (float("nan"),), (float("inf"),)])
def test_scales_that_are_none_are_one_sentence(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one or more above 0 are needed"):
        Augmented(Probe(pixelwise), scales)
