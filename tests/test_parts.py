"""Tests of finding parts by name."""

import sys
from pathlib import Path

import pytest

from segwright import parts


def test_the_folder_is_the_register() -> None:
    files = {path.stem for path in Path(parts.__file__).with_name("networks").glob("*.py")} - {"__init__"}
    assert set(parts.list_parts("network")) == files


def test_optimizers_are_the_functions_of_their_module() -> None:
    assert parts.list_parts("optimizer") == ["adamw", "sgd"]
    assert parts.list_parts("schedule") == ["cosine", "one_cycle", "poly", "step"]


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'unet'"):
        parts.constructor("network", "unett")


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.learning_rat.*known are|did you mean"):
        parts.check_arguments("optimizer", "adamw", {"learning_rat": 0.1})
    with pytest.raises(ValueError, match="did you mean 'weight_decay'"):
        parts.check_arguments("optimizer", "adamw", {"weight_decai": 0.1})


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'optimizer\.lr' is 'fast'"):
        parts.check_arguments("optimizer", "adamw", {"lr": "fast"})


def test_defaults_are_filled_in() -> None:
    arguments = parts.check_arguments("network", "ddrnet", {"width": 16})
    assert arguments["width"] == 16
    assert "head_channels" in arguments
    assert "num_classes" not in arguments


def test_a_recipe_cannot_say_what_the_data_says() -> None:
    with pytest.raises(ValueError, match="num_classes"):
        parts.check_arguments("network", "ddrnet", {"num_classes": 3})


def test_outside_code_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_network.py").write_text(
        "def build(in_channels: int, num_classes: int, depth: int = 3):\n    return depth\n"
    )
    (tmp_path / "package.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "mine", type(sys)("mine"))
    sys.modules["mine"].__path__ = [str(tmp_path)]  # type: ignore[attr-defined]
    assert parts.check_arguments("network", "mine.our_network", {}) == {"depth": 3}
    with pytest.raises(ValueError, match="without `build`"):
        parts.constructor("network", "mine.package")
    with pytest.raises(ValueError, match="cannot be imported"):
        parts.constructor("network", "mine.missing")


def test_a_published_variant_is_its_part_with_arguments() -> None:
    assert parts.expand("network", {"name": "unet_resnet50"}) == {"name": "unet", "encoder": "resnet50"}
    assert parts.expand("network", {"name": "UNet-ResNet50", "encoder": "resnet18"})["encoder"] == "resnet18"


def test_a_part_may_be_written_as_the_field_writes_it() -> None:
    assert parts.expand("network", {"name": "DDRNet"}) == {"name": "ddrnet"}


def test_a_variant_with_the_name_of_a_part_is_that_part_as_it_is() -> None:
    variants = parts.list_variants("network")
    for name in set(variants) & set(parts.list_parts("network")):
        part, arguments = variants[name]
        assert (part, parts.check_arguments("network", part, arguments)) == (
            name,
            parts.check_arguments("network", name, {}),
        )
