import numpy as np
import pytest
from PIL import Image as PillowImage
from rich.console import Console

from segwright.data.inspection import inspect
from segwright.report.inspection import render_inspection


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i in range(30):
        PillowImage.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"images/{i}.png")
        PillowImage.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / f"masks/{i}.png")
    return tmp_path


def shown(root, width: int = 80) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render_inspection(inspect(root)))
    return capture.get()


@pytest.mark.parametrize("width", [80, 120])
def test_tables_say_what_was_understood(root, width):
    text = shown(root, width)

    assert "0/255: 0 is class 0 'background', 255 is class 1 'foreground'" in text
    assert "train 24 · val 6" in text
    assert "3 channels, uint8, all 8 × 8 pixels" in text
    assert "87.5 %" in text
    assert "No problems found." in text
    assert max(map(len, text.splitlines())) <= width


def test_twenty_problems_are_shown_and_the_rest_counted(root):
    for i in range(25):
        (root / f"masks/{i}.png").write_bytes(b"")

    text = shown(root)

    assert "25 errors; pairs with an error are left out" in text
    assert text.count("0 bytes") == 20
    assert "… and 5 more" in text


def test_names_are_not_read_as_markup(root):
    (root / "dataset.yaml").write_text("names: ['[bold]', '[/red]']")

    assert "[/red]" in shown(root)


def test_data_set_that_is_not_understood_shows_why(root):
    (root / "dataset.yaml").write_text("names: [a, b, c]")

    text = shown(root)

    assert "none that can be used" in text
    assert "names 3 classes" in text


def test_images_alone_are_shown(tmp_path):
    PillowImage.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")

    assert "images without masks" in shown(tmp_path)
