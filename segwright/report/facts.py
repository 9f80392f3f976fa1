"""The part of the page that lists facts: what the data holds, and which versions and hardware were used."""

from collections.abc import Mapping
from html import escape

from segwright.report.charts import number

_MOST_LISTED = 40  # items of a list that are written out
_MOST_PROBLEMS = 30


def data(found: Mapping[str, object]) -> str:
    """What the data set holds, and what is wrong with it.

    Args:
        found: The inspection as JSON. Its main facts are shown, not its list of files; of another dictionary all is.
    """
    rest = {key: value for key, value in found.items() if key != "problems"}
    shown = _main_facts(rest) if isinstance(rest.get("statistics"), Mapping) else rest
    problems = _problems(found["problems"]) if "problems" in found else ""
    return f'<section id="data"><h2>Data</h2>{problems}{_facts(shown, "Nothing is known about the data.")}</section>'


def environment(found: Mapping[str, object]) -> str:
    """Versions, hardware and the command."""
    return f'<section id="environment"><h2>Versions and hardware</h2>{_facts(found, "Nothing was recorded.")}</section>'


def _main_facts(found: Mapping[str, object]) -> dict[str, object]:
    """The facts of an inspection that a reader of the report needs, in the order of interest."""
    statistics, classes = (_mapping(found.get(key)) for key in ("statistics", "classes"))
    names = _items(classes.get("names"))
    main = {
        "folder": found.get("root"),
        "layout": found.get("layout"),
        "pairs": statistics.get("num_pairs"),
        "height (pixels)": _span(statistics.get("heights")),
        "width (pixels)": _span(statistics.get("widths")),
        "channels": found.get("channels"),
        "images by pixel type": statistics.get("dtypes"),
        "masks": found.get("encoding"),
        "share of pixels": dict(zip(map(str, names), _items(statistics.get("class_shares")), strict=False)),
        "share of images with the class": {
            split: dict(zip(map(str, names), _items(shares), strict=False))
            for split, shares in _mapping(statistics.get("class_presence")).items()
        },
        "void share": statistics.get("void_share"),
        "notes": found.get("notes"),
        "fingerprint": statistics.get("fingerprint"),
    }
    return {key: value for key, value in main.items() if value not in (None, {}, [], ())}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else ()


def _span(value: object) -> object:
    """Smallest, median and largest in words."""
    sides = [side for side in _items(value) if isinstance(side, (int, float))]
    if len(sides) != 3:
        return value
    low, middle, high = map(number, sides)
    return low if low == high else f"{low} to {high}, median {middle}"


def _problems(problems: object) -> str:
    found = [_problem(problem) for problem in _items(problems)]
    if not found:
        return "<p>No problem was found in the files.</p>"
    listed = "".join(f"<li>{problem}</li>" for problem in found[:_MOST_PROBLEMS])
    more = f"<li>… and {len(found) - _MOST_PROBLEMS} more</li>" if len(found) > _MOST_PROBLEMS else ""
    return f'<div class="problems"><b>Problems found</b><ul>{listed}{more}</ul></div>'


def _problem(problem: object) -> str:
    if not isinstance(problem, Mapping):
        return escape(str(problem))
    severity, file, message = (escape(str(problem.get(key, ""))) for key in ("severity", "file", "message"))
    place = "" if file in ("", ".") else f"{file}: "
    return f"<b>{severity.capitalize()}.</b> {place}{message}"


def _facts(facts: Mapping[str, object], otherwise: str) -> str:
    if not facts:
        return f'<p class="note">{otherwise}</p>'
    items = "".join(f"<dt>{escape(_name(key))}</dt><dd>{_value(key, value)}</dd>" for key, value in facts.items())
    return f"<dl>{items}</dl>"


def _name(key: str) -> str:
    words = str(key).replace("_", " ")
    return words[:1].upper() + words[1:]


def _value(key: str, value: object) -> str:
    """A fact as text; what is nested becomes a list of pairs, and numbers under a key with "share" become percents."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _percent(value) if "share" in key else number(value)
    if isinstance(value, Mapping):
        pairs = "".join(
            f"<li><span>{escape(str(name))}</span> {_value(key, item)}</li>" for name, item in value.items()
        )
        return f'<ul class="pairs">{pairs}</ul>'
    if isinstance(value, (list, tuple)):
        listed = ", ".join(_value(key, item) for item in value[:_MOST_LISTED]) or "none"
        return listed if len(value) <= _MOST_LISTED else f"{listed}, … ({len(value)} in all)"
    return "–" if value is None else escape(str(value))


def _percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"
