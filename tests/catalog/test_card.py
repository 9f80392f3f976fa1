"""Tests of what is known of a network."""

import json

import pytest

from segwright import parts
from segwright.catalog.card import measure, read_card
from segwright.catalog.table import NUM_CLASSES, SIDE, read_table
from segwright.networks.ddrnet import DDRNet


def test_a_card_follows_the_network_stage_by_stage() -> None:
    card = read_card("ddrnet")
    shapes = {stage.name: stage.shapes for stage in card.stages}
    assert shapes["stem"] == ((32, SIDE // 4, SIDE // 4),)
    assert shapes["head"] == ((NUM_CLASSES, SIDE // 8, SIDE // 8),)
    assert [stage.name for stage in card.stages].index("layer3") < [stage.name for stage in card.stages].index("head")


def test_a_card_says_what_the_file_says() -> None:
    card = read_card("ddrnet")
    assert card.summary.startswith("DDRNet: two branches")
    assert card.differs[0] == "DDRNet-39, which splits layer 3 in two, is not built"
    width = next(argument for argument in card.arguments if argument.name == "width")
    assert (width.default, width.description) == (
        32,
        "Channels of the stem, of which the stages have 1 to 16 times as many.",
    )
    assert card.variants["ddrnet_23"]["width"] == 64


def test_a_paragraph_after_the_list_is_no_difference() -> None:
    assert read_card("deeplabv3plus").differs[-1].endswith("where the authors take 513")


def test_the_card_of_a_variant_has_its_arguments() -> None:
    card = read_card("ddrnet_23")
    assert next(argument.default for argument in card.arguments if argument.name == "width") == 64
    assert next(stage.shapes for stage in card.stages if stage.name == "stem") == ((64, SIDE // 4, SIDE // 4),)


def test_a_network_for_volumes_is_shown_with_a_volume() -> None:
    card = read_card("attention_unet_3d")
    assert card.input_shape == (3, 64, 64, 64)
    assert card.stages[0].shapes == ((16, 64, 64, 64),)


def test_code_from_outside_has_no_card() -> None:
    with pytest.raises(ValueError, match="code from outside"):
        read_card("mine.network")


def test_a_card_is_plain_json() -> None:
    assert json.loads(json.dumps(read_card("unet").to_json()))["paper"]["year"] == 2015


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'ddrnet'"):
        read_card("ddrnett")


def test_a_network_is_counted_as_the_table_says() -> None:
    row = measure("ddrnet")
    assert row.parameters == sum(parameter.numel() for parameter in DDRNet(3, NUM_CLASSES).parameters())
    # Table 4 of the paper has 36.3 at 1024 x 2048, eight times the pixels.
    assert row.gmacs == pytest.approx(36.3 / 8, abs=0.06)


def test_the_table_has_every_network_oldest_first() -> None:
    rows = read_table()
    assert sorted(row.name for row in rows) == parts.list_parts("network")
    assert [row.paper.year for row in rows] == sorted(row.paper.year for row in rows)
