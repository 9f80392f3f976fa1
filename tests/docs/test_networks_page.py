"""The page of networks and the table that the package ships are those that the files say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_page_and_the_table_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_networks", ROOT / "docs" / "make_networks.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = script.make_rows()
    hint = "run python docs/make_networks.py"
    assert script.TABLE_FILE.read_text(encoding="utf-8") == script.make_table(rows), hint
    assert script.PAGE_FILE.read_text(encoding="utf-8") == script.make_page(rows), hint
