"""Tests of what a training step needs and does."""

import pytest
import torch
from torch import nn

from segwright.layers.hardware import free_memory
from segwright.planning.step import BYTES_PER_PARAMETER, OVERHEAD, _overruns, follow_step

TINY = {"name": "ddrnet", "width": 4, "head_channels": 8, "pyramid_channels": 8}


def needed(
    network: dict[str, object], crop: tuple[int, int] = (64, 64), batch_size: int = 2, bf16: bool = False
) -> int:
    return follow_step(network, 3, 5, crop, bf16=bf16).num_bytes(batch_size)


def test_a_network_of_our_own_needs_what_can_be_counted_by_hand(tmp_path, monkeypatch) -> None:
    (tmp_path / "one_layer.py").write_text(
        "from torch import nn\n"
        "def build(in_channels: int, num_classes: int):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 8, 1), nn.ReLU(), nn.Conv2d(8, num_classes, 1))\n"
    )
    (tmp_path / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path.parent))
    got = needed({"name": f"{tmp_path.name}.one_layer"})
    pixels = 2 * 64 * 64
    # Kept: the image, the rectified map, the logits and their log-probabilities; single precision.
    kept = pixels * (3 + 8 + 5 + 5) * 4
    parameters = 3 * 8 + 8 + 8 * 5 + 5
    assert got == pytest.approx(BYTES_PER_PARAMETER * parameters + OVERHEAD * kept)


def test_memory_grows_with_the_batch_and_the_crop_and_shrinks_in_bfloat16() -> None:
    fixed = needed(TINY, batch_size=0)
    once = needed(TINY) - fixed
    assert needed(TINY, batch_size=4) - fixed == pytest.approx(2 * once, rel=1e-6)
    assert needed(TINY, crop=(128, 128)) - fixed == pytest.approx(4 * once, rel=0.05)  # maps at 1/64 round up
    assert needed(TINY, bf16=True) < needed(TINY)


def test_nothing_is_allocated_for_a_network_larger_than_the_machine() -> None:
    network = {"name": "ddrnet", "width": 4096}
    assert needed(network) > free_memory(torch.device("cpu"))


def test_a_network_for_volumes_is_refused() -> None:
    with pytest.raises(ValueError, match="attention_unet takes a volume, but the data set holds images"):
        needed({"name": "attention_unet", "dimensions": 3})


@pytest.mark.parametrize(
    ("kind", "kernel_size", "stride", "size", "overruns"),
    [
        (nn.Conv2d, 3, 2, (1, 1), True),
        (nn.Conv2d, 3, 2, (5, 1), True),
        (nn.Conv2d, 3, 4, (2, 2), True),
        (nn.Conv2d, 3, 2, (2, 2), False),
        (nn.Conv2d, 1, 2, (1, 1), False),
        (nn.Conv2d, 3, 1, (1, 1), False),
        (nn.ConvTranspose2d, 3, 2, (1, 1), True),
    ],
)
def test_overruns_are_strides_beyond_the_map(
    kind: type, kernel_size: int, stride: int, size: tuple[int, int], overruns: bool
) -> None:
    convolution = kind(4, 4, kernel_size, stride, padding=kernel_size // 2)
    assert _overruns(convolution, torch.zeros(2, 4, *size)) is overruns


def test_gradients_in_bfloat16_are_right_where_nothing_overruns() -> None:
    """The gradients that the rule lets through; those that it stops are garbage on some processors only."""
    torch.manual_seed(0)
    for size, stride in (((2, 2), 2), ((3, 2), 2), ((8, 4), 4), ((1, 1), 1)):
        convolution = nn.Conv2d(16, 16, 3, stride, padding=1, bias=False).to(memory_format=torch.channels_last)
        assert not _overruns(convolution, torch.zeros(2, 16, *size))
        x = torch.randn(2, 16, *size).to(memory_format=torch.channels_last)
        exact = torch.autograd.grad(convolution(x).square().sum(), convolution.weight)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = torch.autograd.grad(convolution(x).float().square().sum(), convolution.weight)[0]
        assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()
