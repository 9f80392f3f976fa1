"""The page of parts is what the code says."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_parts", ROOT / "docs" / "make_parts.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE_FILE.read_text(encoding="utf-8") == script.make_page(), "run python docs/make_parts.py"
