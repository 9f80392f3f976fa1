from segwright.report.facts import data, environment

INSPECTION = {
    "root": "cells",
    "layout": "images/ beside masks/",
    "channels": 3,
    "classes": {"names": ["ground", "<tree>"], "colors": [[0, 0, 0], [1, 1, 1]]},
    "encoding": {"kind": "index", "values": [0, 1], "void": [255]},
    "splits": {"train": [{"name": "secret_stem", "image": "a.png", "mask": "b.png"}]},
    "statistics": {
        "num_pairs": {"train": 48, "val": 12},
        "heights": [200, 256.0, 300],
        "widths": [256, 256.0, 256],
        "dtypes": {"uint8": 60},
        "class_shares": [0.75, 0.0123],
        "class_presence": {"train": [1.0, 0.5]},
        "void_share": 0.0,
        "fingerprint": "db1e63",
    },
    "notes": [],
    "problems": [{"severity": "warning", "file": "masks/1.png", "message": "holds one class only."}],
}


def test_an_inspection_is_shown_by_its_main_facts():
    text = data(INSPECTION)
    for fact in ("200 to 300, median 256", "<dd>256</dd>", "<span>train</span> 48", "75.0%", "1.23%", "db1e63"):
        assert fact in text
    assert "<span>&lt;tree&gt;</span> 50.0%" in text
    assert "<b>Warning.</b> masks/1.png: holds one class only." in text


def test_the_list_of_files_is_left_out():
    assert "secret_stem" not in data(INSPECTION)


def test_many_problems_are_cut_and_counted():
    text = data({"problems": [f"file {index} is broken" for index in range(100)]})
    assert "file 29 is broken" in text
    assert "file 30 is broken" not in text
    assert "and 70 more" in text


def test_facts_of_any_kind_become_text():
    text = environment({"a_b": True, "c": None, "d": 0.25, "e": [1, "<x>"], "f": {"g": [1, 2]}, "h": list(range(99))})
    for fact in ("<dt>A b</dt><dd>yes", "<dd>–", "<dd>0.25", "1, &lt;x&gt;", "<span>g</span> 1, 2", "(99 in all)"):
        assert fact in text


def test_an_incomplete_inspection_is_shown_as_far_as_it_goes():
    assert "<dt>Folder</dt><dd>x</dd>" in data({"root": "x", "statistics": {}, "classes": None})
