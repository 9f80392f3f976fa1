"""Tests of recipes."""

from pathlib import Path

import pytest

from segwright.planning.presets import PRESETS
from segwright.recipe import Recipe, load_recipe, read_metrics


def test_defaults_leave_network_and_loss_to_the_data() -> None:
    recipe = load_recipe(None, data="somewhere")
    assert recipe.network == {"name": "auto"}
    assert recipe.loss == {}
    assert recipe.optimizer["weight_decay"] > 0


def test_a_loss_alone_has_the_weight_one() -> None:
    assert load_recipe(None, ["loss=cross_entropy"], data="x").loss["cross_entropy"]["weight"] == 1.0


def test_a_name_alone_stands_for_a_part() -> None:
    recipe = load_recipe(None, ["network=unet", "network.encoder=resnet18"], data="x")
    assert recipe.network["name"] == "unet"
    assert recipe.network["encoder"] == "resnet18"


def test_losses_are_joined_by_plus() -> None:
    recipe = load_recipe(None, ["loss=cross_entropy+dice", "loss.dice.weight=0.5"], data="x")
    assert {name: part["weight"] for name, part in recipe.loss.items()} == {"cross_entropy": 1.0, "dice": 0.5}


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["optimizer=sgd", "train.steps=7", "transform.scale=[0.8,1.2]"], data="x")
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data: x\noptimizer: {name: sgd, lr: 0.5}\n")
    assert load_recipe(tmp_path / "r.yaml", ["optimizer.lr=0.25"]).optimizer["lr"] == 0.25


def test_changed_values_are_checked_again() -> None:
    recipe = load_recipe(None, data="x")
    assert recipe.with_values({"train.steps": 5}).train.steps == 5
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        recipe.with_values({"train.stepss": 5})


def test_a_changed_copy_leaves_the_original_and_the_defaults_alone() -> None:
    recipe = load_recipe(None, ["network=ddrnet", "loss=cross_entropy"], data="x")
    recipe.with_values({"network.width": 8, "loss.cross_entropy.weight": 3.0})
    assert recipe.network["width"] == 32
    assert recipe.loss["cross_entropy"]["weight"] == 1.0
    assert load_recipe(None, data="x").loss == {}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimiser.lr=1", "'optimiser' is not known; did you mean 'optimizer'"),
        ("optimizer.lrr=1", r"'optimizer\.lrr' is not known; did you mean 'lr'"),
        ("train.minuts=1", r"'train\.minuts' is not known; did you mean 'minutes'"),
        ("train.steps=-1", r"'train\.steps' is -1, but input should be greater than 0"),
        ("train.average=true", r"'train\.average' is True, but input should be 'ema', 'swa' or 'none'"),
        ("train.tracker=tensorboard", r"'train\.tracker' is 'tensorboard', but input should be 'none', 'wandb'"),
        ("network.name=unett", "did you mean 'unet'"),
        ("network.width=8", "'network.width' came without network.name; name it too"),
        ("loss.cross_entropi.weight=1", "did you mean 'cross_entropy'"),
        ("loss.dice.weight=0", r"'loss\.dice\.weight' is 0"),
        ("optimizer.lr", "has no value"),
        ("network.name.x=1", "known are"),
        ("data.x=1", "valid string"),
    ],
)
def test_a_mistake_is_one_sentence(override: str, sentence: str | None) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        load_recipe(None, [override], data="x")
    assert "\n" not in str(caught.value)


def test_a_wrong_argument_of_a_network_gets_the_nearest_right_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'width'"):
        load_recipe(None, ["network=ddrnet", "network.with=8"], data="x")


def test_a_limit_on_the_command_line_replaces_that_of_a_preset() -> None:
    preset = PRESETS["medical"]
    recipe = load_recipe(None, ["train.minutes=30"], data="x", **preset)
    assert (recipe.train.minutes, recipe.train.steps) == (30, None)
    assert recipe.train.batch_size == 8
    assert preset["train"]["steps"] == 100_000


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_recipe(name: str) -> None:
    recipe = load_recipe(None, data="x", **PRESETS[name])
    assert recipe.train.steps is not None
    assert recipe.transform["crop"] is not None


def test_arguments_of_metrics_are_read_and_checked() -> None:
    found = read_metrics("boundary_iou, calibration", ["surface.tolerance=3"])
    assert list(found) == ["boundary_iou", "calibration", "surface"]
    assert found["surface"]["tolerance"] == 3
    with pytest.raises(ValueError, match="metric 'boundery_iou' is not known; did you mean 'boundary_iou'"):
        read_metrics("boundery_iou", [])
    with pytest.raises(ValueError, match="did you mean 'tolerance'"):
        read_metrics("surface", ["surface.tolerence=3"])
    with pytest.raises(ValueError, match="names no argument of a metric"):
        read_metrics("surface", ["tolerance=3"])


def test_two_limits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.steps and train\.minutes"):
        load_recipe(None, ["train.steps=3", "train.minutes=1"], data="x")


@pytest.mark.parametrize("content", ["just words", "- a list", "key: [unclosed"])
def test_a_file_that_is_no_recipe_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(ValueError, match="recipe") as caught:
        load_recipe(tmp_path / "r.yaml", data="x")
    assert "\n" not in str(caught.value)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    recipe: Recipe = load_recipe(None, data="x")
    with pytest.raises(ValueError, match="frozen"):
        recipe.data = "y"  # type: ignore[misc]


def test_a_variant_is_written_out_in_the_recipe() -> None:
    network = load_recipe(None, ["network=unet_resnet50"], data="x").network
    assert (network["name"], network["encoder"]) == ("unet", "resnet50")


def test_a_near_name_is_offered_for_a_variant() -> None:
    with pytest.raises(ValueError, match="did you mean 'unet_resnet50'"):
        load_recipe(None, ["network=unet_resnet5"], data="x")
