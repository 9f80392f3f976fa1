"""Tests of the one artefact."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import segwright
from segwright.inference.description import DESCRIPTION, WEIGHTS
from segwright.inference.predictor import predict_image
from segwright.inference.segmenter import Segmenter
from segwright.runtimes.torch import TorchEngine


def test_a_saved_segmenter_comes_back_the_same(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path / "s")
    again = Segmenter.load(tmp_path / "s")  # its weights are channels-last, which rounds differently
    assert again.description == tiny_segmenter.description
    image = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(again(image), tiny_segmenter.to(memory_format=torch.channels_last)(image))


def test_a_run_folder_stands_for_its_segmenter(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path / "segmenter")
    assert Segmenter.load(tmp_path).description == tiny_segmenter.description


def test_the_folder_holds_two_files_without_pickle(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [WEIGHTS, DESCRIPTION]
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    assert description["classes"]["names"] == ["background", "thing"]
    header = (tmp_path / WEIGHTS).read_bytes()
    assert header[8:9] == b"{"  # safetensors: eight bytes of length, then JSON


def test_normalization_is_inside(tiny_segmenter: Segmenter) -> None:
    image = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected = tiny_segmenter.network((image.float() - 100.0) / 50.0)
        torch.testing.assert_close(tiny_segmenter(image), expected)


def test_the_first_of_all_outputs_is_the_main_one(tiny_segmenter: Segmenter) -> None:
    image = torch.randint(0, 255, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        outputs = tiny_segmenter.forward_all(image)
        torch.testing.assert_close(outputs[0], tiny_segmenter(image))
    assert len(outputs) == 2


def test_a_folder_without_segmenter_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no segmenter"):
        Segmenter.load(tmp_path)


@pytest.mark.parametrize("file", [WEIGHTS, DESCRIPTION])
def test_a_damaged_file_is_one_sentence(tiny_segmenter: Segmenter, tmp_path: Path, file: str) -> None:
    tiny_segmenter.save(tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged") as caught:
        Segmenter.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_one_sentence(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    description["arguments"]["width"] = 8
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    with pytest.raises(ValueError, match="do not fit") as caught:
        Segmenter.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(ValueError, match="format"):
        Segmenter.load(tmp_path)


def test_three_lines_from_a_folder_to_a_mask(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path)
    mask = segwright.load(tmp_path, runtime="torch").predict(np.zeros((37, 53, 3), np.uint8)).mask
    assert mask.shape == (37, 53)


def test_a_prediction_is_the_same_after_loading(tiny_segmenter: Segmenter, tmp_path: Path) -> None:
    tiny_segmenter.save(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    before, after = (
        predict_image(TorchEngine(one, precision="fp32"), image).mask
        for one in (tiny_segmenter, Segmenter.load(tmp_path))
    )
    np.testing.assert_array_equal(after, before)
