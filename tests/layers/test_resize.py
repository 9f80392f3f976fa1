import pytest
import torch

from segwright.layers.resize import check_sides, resize, resize_logits


def test_pixels_are_areas():
    row = torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2)
    assert resize(row, (1, 4)).flatten().tolist() == [0, 1, 3, 4]


def test_logits_are_resized_in_single_precision_and_class_by_class():
    logits = torch.randn(2, 5, 3, 4).bfloat16().to(memory_format=torch.channels_last)
    resized = resize_logits(logits, (6, 8))
    assert resized.is_contiguous()
    assert torch.equal(resized, resize(logits.float().contiguous(), (6, 8)))


def test_multiples_pass():
    check_sides(torch.zeros(1, 3, 64, 32), 32, "SegFormer")


def test_other_sides_are_refused_with_the_size_to_use():
    with pytest.raises(ValueError, match=r"image is 500 x 375, but SegFormer needs .* of 32; pad to 512 x 384 or use"):
        check_sides(torch.zeros(1, 3, 500, 375), 32, "SegFormer")
