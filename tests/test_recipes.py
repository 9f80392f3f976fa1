"""Every recipe that comes with the project loads, and says what it is worth."""

from pathlib import Path

import pytest

from segwright.recipe import AUTO, load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
HEADER = ("Paper", "Data", "Command", "Hardware", "Time", "Score")


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_loads_and_leaves_no_choice_open(file: Path) -> None:
    recipe = load_recipe(file, ["data=somewhere"])
    assert recipe.data == "somewhere"
    assert recipe.network["name"] != AUTO
    assert recipe.loss
    assert (recipe.train.minutes or recipe.train.epochs or recipe.train.steps) is not None


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_header_says_paper_data_command_hardware_time_and_score(file: Path) -> None:
    header = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    for word in HEADER:
        assert any(line.startswith(f"# {word:<11}") for line in header), word


def test_there_are_recipes() -> None:
    assert {"camvid", "membrane"} <= {file.stem for file in RECIPES}
