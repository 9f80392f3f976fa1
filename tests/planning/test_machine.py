"""Tests of fitting a recipe to the machine."""

from pathlib import Path

import pytest
import torch

from segwright import run
from segwright.data.inspection import inspect
from segwright.layers import hardware
from segwright.planning import machine
from segwright.planning.plan import complete
from segwright.planning.step import Step
from segwright.recipe import load_recipe


def test_a_step_that_does_not_fit_gets_a_smaller_batch_then_a_smaller_crop(
    rectangles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, inspection = (
        load_recipe(None, ["network=ddrnet", "network.width=4"], data=str(rectangles)),
        inspect(rectangles),
    )
    whole = machine._follow(complete(recipe, inspection).recipe, inspection).num_bytes(4)
    monkeypatch.setattr(machine, "free_memory", lambda device: whole / machine.IN_USE - 1)
    got = complete(recipe, inspection)
    assert got.recipe.train.batch_size == 2
    assert list(got.recipe.transform["crop"]) == [64, 64]
    assert got.notes == ("2 images a batch instead of 4 images a batch, so that a step of ddrnet fits in memory",)
    half = machine._follow(got.recipe, inspection).num_bytes(2)
    monkeypatch.setattr(machine, "free_memory", lambda device: half / machine.IN_USE - 1)
    assert list(complete(recipe, inspection).recipe.transform["crop"]) == [32, 32]


def test_a_step_that_fits_in_no_size_is_refused(rectangles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"2 crops of 32 x 32 needs about 0\.\d GB, .* take a smaller network"):
        complete(load_recipe(None, data=str(rectangles)), inspect(rectangles))


def test_sizes_that_a_user_gave_are_not_changed(rectangles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000)
    given = ["train.batch_size=4", "transform.crop=[64,64]"]
    with pytest.raises(ValueError, match="4 crops of 64 x 64"):
        complete(load_recipe(None, given, data=str(rectangles)), inspect(rectangles))


TINY = ["network=pan", "network.encoder=test_resnet", "network.weights=none", "network.channels=16"]


def test_bfloat16_is_left_where_a_stride_is_larger_than_its_map(
    rectangles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    got = complete(load_recipe(None, [*TINY, "train.device=cpu"], data=str(rectangles)), inspect(rectangles))
    assert got.recipe.train.precision == "fp32"
    assert got.notes[0].startswith("float32 is used, because crops of 64 x 64 leave fpa.down.2.0 of pan a map smaller")
    asked = load_recipe(None, [*TINY, "train.device=cpu", "train.precision=bf16"], data=str(rectangles))
    with pytest.raises(ValueError, match=r"in bfloat16 are wrong on CPUs; give larger crops or train\.precision=fp32"):
        complete(asked, inspect(rectangles))
    wide = load_recipe(None, [*TINY, "train.device=cpu", "transform.crop=[128,128]"], data=str(rectangles))
    assert complete(wide, inspect(rectangles)).recipe.train.precision == "auto"


def test_the_choice_of_float32_reaches_the_training(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(hardware, "has_bf16", lambda device: True)
    monkeypatch.setattr(run, "_work", lambda fabric, **_: used.append(fabric._precision.precision) or (True, 0.0))
    for crop in ("[64,64]", "[128,128]"):
        recipe = load_recipe(None, [*TINY, "train.device=cpu", f"transform.crop={crop}"], data=str(rectangles))
        run.train(recipe, tmp_path / crop)
    assert used == ["32-true", "bf16-mixed"]


def test_a_run_that_has_begun_goes_on_whatever_memory_is_free(
    rectangles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda device: 1000)
    begun = load_recipe(None, ["train.batch_size=4", "transform.crop=[64,64]"], data=str(rectangles))
    assert complete(begun, inspect(rectangles), is_resumed=True).recipe.train.batch_size == 4


def test_every_process_has_weights_of_its_own() -> None:
    step = Step(weight_bytes=100, image_bytes=10.0, overrun=None)
    recipe = load_recipe(None, ["train.batch_size=4", "train.devices=2"], data="x")
    assert machine._needed(step, recipe, torch.device("cpu")) == 240
    assert machine._needed(step, recipe, torch.device("cuda")) == 120


def test_a_network_from_outside_whose_shapes_cannot_be_followed_is_trained_as_it_is(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "asks.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Asks(nn.Module):\n"
        "    def __init__(self, in_channels, num_classes):\n"
        "        super().__init__()\n"
        "        self.head = nn.Conv2d(in_channels, num_classes, 1)\n"
        "    def forward(self, image):\n"
        "        return self.head(image if image.abs().max() < 1e9 else image / 2)\n"
        "def build(in_channels: int, num_classes: int, at_once: bool = False):\n"
        "    if at_once:\n"
        "        torch.linspace(0, 1, 2)[0].item()\n"
        "    return Asks(in_channels, num_classes)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for override in ("network.at_once=false", "network.at_once=true"):
        recipe = load_recipe(None, ["network=outside.asks", override, "train.device=cpu"], data=str(rectangles))
        plan = complete(recipe, inspect(rectangles))
        assert plan.recipe.train.batch_size == 4
        assert "could not be told" in plan.notes[0]
